"""A program without an operating system around an exported file, and the emulator's plugin that counts its instructions.

A vector table, a reset handler that copies the initialised data, and semihosting for output.
"""

from __future__ import annotations

RESERVED = 0x40000  #: bytes of RAM that are left to the stack

#: Code and constants in the board's largest memory; data, and the stack behind them, in RAM.
LINKER = """
MEMORY {{
    VECTORS (rx): ORIGIN = {vectors}, LENGTH = 1K
    FLASH (rx): ORIGIN = {flash}, LENGTH = 16M
    RAM (rwx): ORIGIN = {ram}, LENGTH = 4M - {reserved}
}}
ENTRY(reset)
SECTIONS {{
    .vectors : {{ KEEP(*(.vectors)) }} > VECTORS
    .text : {{ code_begin = .; *(.text*) code_end = .; *(.rodata*) . = ALIGN(8); }} > FLASH
    .ARM.exidx : {{ *(.ARM.exidx*) }} > FLASH
    .data : ALIGN(8) {{ data_begin = .; *(.data*) . = ALIGN(8); data_end = .; }} > RAM AT > FLASH
    data_source = LOADADDR(.data);
    .bss (NOLOAD) : ALIGN(64) {{ bss_begin = .; *(.bss*) *(COMMON) . = ALIGN(8); bss_end = .; }} > RAM
    stack_top = {ram} + 4M;
}}
"""

START = """
#include <stdint.h>

extern uint32_t data_begin[], data_end[], data_source[], bss_begin[], bss_end[], stack_top[];
int main(void);

static void semihosting(uint32_t operation, const void *argument)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
}

void say(const char *text) { semihosting(0x04, text); }

static void end(void)
{
    semihosting(0x18, (const void *)0x20026); /* the application has ended */
    for (;;)
        ;
}

void reset(void)
{
    volatile uint32_t *to = data_begin;
    const uint32_t *from = data_source;
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    *(volatile uint32_t *)0xE000ED88 |= 0xF00000; /* CPACR: the floating-point unit and Helium are on */
    __asm__ volatile("dsb\\n\\tisb" ::: "memory");
#endif
    while (to < data_end)
        *to++ = *from++;
    for (to = bss_begin; to < bss_end; to++)
        *to = 0;
    (void)main();
    end();
}

static void fault(void)
{
    say("fault\\n");
    end();
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))stack_top, reset, fault, fault, fault, fault, fault, fault};
"""

#: Copies each sample to where the network reads it, runs the network on a painted stack, and writes its outputs in hexadecimal
#: digits. What is counted lies between the first instruction of {name}_run and that of ``finished``, without ``EXCLUDED``.
MAIN = """
#include "{header}"
#include <stddef.h>
#include <string.h>

#define PAINTED ({painted} / 4)
#define PAINT 0xA5C35A3Cu

void say(const char *text);

extern const uint8_t samples[];
__asm__(".section .rodata\\n.balign 8\\n.global samples\\nsamples:\\n.incbin \\"samples.bin\\"\\n.text\\n");

{buffers}

__attribute__((noinline)) void finished(void) {{ __asm__ volatile(""); }}

/* Where the network was compiled to trace its nodes, it calls this behind each of its nodes. */
size_t fwrite(const void *codes, size_t size, size_t count, void *file);
__attribute__((noinline)) size_t fwrite(const void *codes, size_t size, size_t count, void *file)
{{
    __asm__ volatile("" : : "r"(codes), "r"(size), "r"(file));
    return count;
}}

__attribute__((noinline)) static uint32_t measured(void)
{{
    volatile uint32_t *top, *at;
    __asm__ volatile("mov %0, sp" : "=r"(top));
    for (at = top - PAINTED; at < top; at++)
        *at = PAINT;
    {name}_run({arguments});
    finished();
    for (at = top - PAINTED; at < top && *at == PAINT; at++)
        ;
    return 4 * (uint32_t)(top - at);
}}

static void write(const void *from, uint32_t size)
{{
    static char line[2 * 64 + 1];
    const uint8_t *const bytes = from;
    uint32_t i, n;
    for (i = 0, n = 0; i < size; i++) {{
        line[n++] = "0123456789abcdef"[bytes[i] >> 4];
        line[n++] = "0123456789abcdef"[bytes[i] & 15];
        if (n == sizeof line - 1 || i == size - 1) {{
            line[n] = 0;
            say(line);
            n = 0;
        }}
    }}
}}

int main(void)
{{
    const uint8_t *from = samples;
    uint32_t i;
    for (i = 0; i < {count}; i++) {{
        uint32_t stack;
{read}
        stack = measured();
        write(&stack, sizeof stack);
{write}
        say("\\n");
    }}
    return 0;
}}
"""
EXCLUDED = ("measured", "finished", "fwrite")  #: functions of ours that run meanwhile

#: A plugin of the emulator (qemu's "TCG plugins", docs/devel/tcg-plugins.rst of its source). Each instruction adds 1 to the
#: counter of its address, in the translated code itself, where it is executed: the counts are exact and always the same. Few
#: distributions package qemu-plugin.h, so that what is used of it is declared here (version 1 of the interface).
PLUGIN = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { NO_REGISTERS = 0, ADD_U64 = 0 };
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *), int, void *);
extern void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *, int, void *, uint64_t);

int qemu_plugin_version = 1;

enum { BASE, SIZE, BEGIN, END, MARK, NUMBERS };
static const char *const names[NUMBERS] = {"base", "size", "begin", "end", "mark"};
static uint64_t numbers[NUMBERS], *counts;
static FILE *out;

static void begin(unsigned cpu, void *user)
{
    (void)cpu, (void)user;
    memset(counts, 0, numbers[SIZE] / 2 * sizeof *counts);
}

static void tell(unsigned cpu, void *what)
{
    uint64_t i;
    fprintf(out, "%s\\n", (const char *)what);
    for (i = 0; i < numbers[SIZE] / 2; i++)
        if (counts[i])
            fprintf(out, "%llu %llu\\n", (unsigned long long)(numbers[BASE] + 2 * i), (unsigned long long)counts[i]);
    begin(cpu, NULL);
    fflush(out);
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    size_t i;
    (void)id;
    for (i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
        struct qemu_plugin_insn *const instruction = qemu_plugin_tb_get_insn(block, i);
        const uint64_t at = qemu_plugin_insn_vaddr(instruction);
        if (at == numbers[BEGIN])
            qemu_plugin_register_vcpu_insn_exec_cb(instruction, begin, NO_REGISTERS, NULL);
        if (at == numbers[END])
            qemu_plugin_register_vcpu_insn_exec_cb(instruction, tell, NO_REGISTERS, "end");
        if (at == numbers[MARK])
            qemu_plugin_register_vcpu_insn_exec_cb(instruction, tell, NO_REGISTERS, "mark");
        if (at - numbers[BASE] < numbers[SIZE])
            qemu_plugin_register_vcpu_insn_exec_inline(instruction, ADD_U64, counts + (at - numbers[BASE]) / 2, 1);
    }
}

int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
    int i, k;
    (void)info;
    for (i = 0; i < argc; i++) {
        const char *const value = strchr(argv[i], '=') + 1;
        const size_t length = value - argv[i] - 1;
        for (k = 0; k < NUMBERS; k++)
            if (strlen(names[k]) == length && !strncmp(argv[i], names[k], length))
                numbers[k] = strtoull(value, NULL, 10);
        if (!strncmp(argv[i], "out", length))
            out = fopen(value, "w");
    }
    counts = calloc(numbers[SIZE] / 2 + 1, sizeof *counts);
    if (!out || !counts)
        return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
"""
