#ifndef CLASSIFY_H
#define CLASSIFY_H

#include <stddef.h>
#include <stdint.h>

/* Prints the class of a picture, a PGM or PPM file in memory, and all codes that the network gives. Returns 0, or 1. */
int classify(const uint8_t *file, size_t size);

#endif
