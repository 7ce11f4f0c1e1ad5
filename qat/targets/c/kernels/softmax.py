"""The C of a softmax."""

from __future__ import annotations

#: After ROUND of floats.py; for codes of a type.
SOFTMAX = """\
/* y[i] = min(rint(e[i] * share), 255) of one pixel, e[i] = table[largest - x[i]] and share = 256 / sum of e, where quotient and
 * product are rounded as float32 rounds them; in integers, so that no processor or compiler option can change it. */
static void softmax{BITS}(const {CODE} *x, int32_t channels, const uint32_t *table, uint8_t *y)
{
    {CODE} largest = 0;
    uint32_t sum = 0;
    uint64_t share;
    int32_t i, scale, more;
    for (i = 0; i < channels; i++)
        if (x[i] > largest)
            largest = x[i];
    for (i = 0; i < channels; i++)
        sum += table[largest - x[i]];
    /* 2^63 / sum = 2^55 share, more than 24 bits; its last bit stands for the remainder, so that no tie is made up. */
    share = ((uint64_t)1 << 63) / sum;
    share |= (uint64_t)(share * sum != (uint64_t)1 << 63);
    share = to_float(share, &scale);
    for (i = 0; i < channels; i++) {
        uint64_t product = to_float(table[largest - x[i]] * share, &more);
        product = shift_to_even(product, 55 - scale - more);
        y[i] = (uint8_t)(product > 255 ? 255 : product);
    }
}
"""


def softmax(code: str) -> str:
    """The C of a softmax of codes of that type; after ROUND."""
    return SOFTMAX.replace("{CODE}", code).replace("{BITS}", "16" if code == "uint16_t" else "8")
