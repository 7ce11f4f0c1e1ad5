/* On a Cortex-M without an operating system. The picture is part of the program here; with a camera it is the camera's buffer.
 * printf writes through the debugger (semihosting), which an emulator plays too. */
#include "classify.h"

#include <stdlib.h>

extern const uint8_t picture[], picture_end[];
__asm__(".section .rodata\n.balign 4\n.global picture\npicture:\n.incbin \"" PICTURE "\"\n"
        ".global picture_end\npicture_end:\n.byte 0\n.text\n");

extern uint32_t data_begin[], data_end[], data_source[], bss_begin[], bss_end[], stack_top[];
extern void initialise_monitor_handles(void);

void reset(void)
{
    volatile uint32_t *to = data_begin;
    const uint32_t *from = data_source;
#ifdef __ARM_FP
    *(volatile uint32_t *)0xE000ED88 |= 0xF00000; /* CPACR: the floating-point unit is on */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
#endif
    while (to < data_end)
        *to++ = *from++;
    for (to = bss_begin; to < bss_end; to++)
        *to = 0;
    initialise_monitor_handles();
    exit(classify(picture, (size_t)(picture_end - picture)));
}

static void fault(void)
{
    for (;;)
        ;
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))stack_top, reset, fault, fault, fault, fault, fault};

/* exit calls these, which programs without start files of the compiler have to have. */
void _init(void) {}
void _fini(void) {}
