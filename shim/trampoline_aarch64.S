/* dlsym, dlvsym, dlopen, dlmopen as the program sees them: see trampoline_x86_64.S. The return
 * address that the real functions look at is in x30 when they are entered. */

    .macro ROUTE name
    .globl  \name
    .type   \name, %function
    .p2align 4
\name:
    .cfi_startproc
    hint    #34                     /* bti c */
    stp     x29, x30, [sp, #-64]!
    .cfi_adjust_cfa_offset 64
    .cfi_rel_offset x29, 0
    .cfi_rel_offset x30, 8
    mov     x29, sp
    stp     x0, x1, [sp, #16]
    stp     x2, x30, [sp, #32]
    str     x0, [sp, #48]
    add     x0, sp, #16
    bl      vgpu_route_\name
    mov     x16, x0
    ldp     x0, x1, [sp, #16]
    ldr     x2, [sp, #32]
    ldr     x17, [sp, #48]
    ldp     x29, x30, [sp], #64
    .cfi_adjust_cfa_offset -64
    .cfi_restore x29
    .cfi_restore x30
    cbz     x16, 1f
    br      x16
1:  mov     x0, x17
    ret
    .cfi_endproc
    .size   \name, . - \name
    .hidden vgpu_route_\name
    .endm

    .text
    ROUTE dlsym
    ROUTE dlvsym
    ROUTE dlopen
    ROUTE dlmopen

    .section .note.GNU-stack, "", %progbits

    /* Marks the object as usable with branch target identification. */
    .section .note.gnu.property, "a"
    .p2align 3
    .long   4, 16, 5
    .asciz  "GNU"
    .long   0xc0000000, 4, 1, 0
