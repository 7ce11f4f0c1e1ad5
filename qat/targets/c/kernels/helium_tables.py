"""What is looked up number by number, on processors with Helium and on others."""

from __future__ import annotations

SUM_TABLE = """\
#ifdef USE_SIMD32
/* y[i] = table[x0[i] + (x1[i] ^ flips)], of 511 numbers. */
static inline void look_up_sums(const uint8_t *x0, const uint8_t *x1, uint8_t flips, int32_t count, const uint8_t *table,
                                uint8_t *y)
{
#ifdef USE_HELIUM
    const uint16x8_t flipped = vdupq_n_u16(flips);
    __asm__ volatile("wlstp.16 lr, %[count], 1f\\n"
                     "0:\\n\\t"
                     "vldrb.u16 q0, [%[x0]], #8\\n\\t"
                     "vldrb.u16 q1, [%[x1]], #8\\n\\t"
                     "veor q1, q1, %q[flipped]\\n\\t"
                     "vadd.i16 q0, q0, q1\\n\\t"
                     "vldrb.u16 q1, [%[table], q0]\\n\\t"
                     "vstrb.16 q1, [%[y]], #8\\n\\t"
                     "letp lr, 0b\\n"
                     "1:"
                     : [x0] "+&l"(x0), [x1] "+&l"(x1), [y] "+&l"(y)
                     : [flipped] "w"(flipped), [count] "r"(count), [table] "r"(table)
                     : "q0", "q1", "lr", "memory");
#else
    int32_t i;
    for (i = 0; i < count; i++)
        y[i] = table[x0[i] + (x1[i] ^ flips)];
#endif
}
#endif
"""
