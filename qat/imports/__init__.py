"""Networks of other frameworks and files as graphs: a front end for each source, one pass that makes cells."""
