"""Passes: plain functions from graph to graph, one to a file."""
