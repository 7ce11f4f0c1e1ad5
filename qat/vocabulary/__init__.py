"""The operations that cells and quantizers are written in, and the values that flow between cells."""
