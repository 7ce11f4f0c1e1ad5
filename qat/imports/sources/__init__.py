"""The front ends: each lists the plain operations of one kind of source."""
