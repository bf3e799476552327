/* dlsym, dlvsym, dlopen, dlmopen as the program sees them. Each asks a C function (interpose.c)
 * about the call: an address means "jump there", with the arguments as that function left them and
 * with the caller's return address still on top of the stack, since the real functions look at it
 * (RTLD_NEXT, RUNPATH, $ORIGIN, namespaces); NULL means that the answer is in the record.
 *
 * The record on the stack is struct vgpu_route in interpose.c. */

    .macro ROUTE name
    .globl  \name
    .type   \name, @function
    .p2align 4
\name:
    .cfi_startproc
    endbr64
    subq    $56, %rsp
    .cfi_adjust_cfa_offset 56
    movq    %rdi, 0(%rsp)
    movq    %rsi, 8(%rsp)
    movq    %rdx, 16(%rsp)
    movq    56(%rsp), %rdi
    movq    %rdi, 24(%rsp)
    movq    %rax, 32(%rsp)
    movq    %rsp, %rdi
    call    vgpu_route_\name
    movq    %rax, %r11
    movq    0(%rsp), %rdi
    movq    8(%rsp), %rsi
    movq    16(%rsp), %rdx
    movq    32(%rsp), %rax
    addq    $56, %rsp
    .cfi_adjust_cfa_offset -56
    testq   %r11, %r11
    jz      1f
    jmp     *%r11
1:  ret
    .cfi_endproc
    .size   \name, . - \name
    .hidden vgpu_route_\name
    .endm

    .text
    ROUTE dlsym
    ROUTE dlvsym
    ROUTE dlopen
    ROUTE dlmopen

    .section .note.GNU-stack, "", @progbits

    /* Marks the object as usable with indirect branch tracking and shadow stacks. */
    .section .note.gnu.property, "a"
    .p2align 3
    .long   4, 16, 5
    .asciz  "GNU"
    .long   0xc0000002, 4, 3, 0
