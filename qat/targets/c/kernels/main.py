"""What makes a program of a C file."""

from __future__ import annotations

MAIN = """\
#ifdef {NAME}_MAIN
/* Reads samples of raw bytes, all inputs of a sample one after another, and writes their codes (with {NAME}_TRACE those of
 * every node, as they are stored): from stdin to stdout, or between two files that are named. */
#include <stdio.h>

int main(int argc, char **argv)
{{
{BUFFERS}
    FILE *from = stdin, *to = stdout;
    if (argc == 3) {{
        from = fopen(argv[1], "rb");
        to = fopen(argv[2], "wb");
        if (!from || !to)
            return 2;
    }}
    for (;;) {{
{READ}
        {NAME_LOWER}_run({ARGUMENTS});
#ifndef {NAME}_TRACE
{WRITE}
#endif
    }}
    return fclose(to) ? 3 : 0;
}}
#endif
"""
