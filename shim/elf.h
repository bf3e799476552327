/* Reading the dynamic symbol tables of loaded objects. Calling libc's dlsym or dlvsym by name would
 * bind to the shim's own export, so the real ones are found here; and looking symbols up here takes
 * no loader lock that a constructor in another thread could be holding.
 *
 * Nothing in elf.c is instrumented by sanitizers, and nothing but dl_iterate_phdr is called: other
 * preloads (a sanitizer's runtime among them) use dlsym before anything is initialised. */
#ifndef VGPU_ELF_H
#define VGPU_ELF_H

#include <link.h>
#include <stdbool.h>
#include <stdint.h>

#define VGPU_UNINSTRUMENTED __attribute__((no_sanitize("address", "thread", "undefined")))

/* One loaded object. The pointers are the loader's own and live as long as the object. */
struct vgpu_elf {
    uintptr_t base;       /* what is added to the file's addresses */
    uintptr_t start, end; /* the mapped range, when found by vgpu_elf_each or vgpu_elf_at */
    const char *path;     /* as the loader knows it; "" for the program itself */
    const char *soname;   /* "" if it has none */
    const ElfW(Sym) * symbols;
    const char *strings;
    const uint32_t *gnu_hash;
    const uint32_t *sysv_hash;
    const ElfW(Half) * versions;
};

/* Address of a function or object that `elf` defines and exports under its default version, or
 * NULL. An indirect function (ifunc) counts as not defined: no driver has one. */
void *vgpu_elf_symbol(const struct vgpu_elf *elf, const char *name);

/* Calls visit for each object of the base namespace in load order (program, preloads, libraries,
 * later dlopens) until it returns true; tells whether it did. visit must not load or unload. */
bool vgpu_elf_each(bool (*visit)(const struct vgpu_elf *elf, void *argument), void *argument);

/* The object of the base namespace that contains the address. */
bool vgpu_elf_at(const void *address, struct vgpu_elf *found);

/* True if the address lies in the shim. */
bool vgpu_elf_is_own(const void *address);

/* The shim's own definition of an exported name, or NULL. `&cuInit` in C would give the program's
 * or an earlier preload's. */
void *vgpu_elf_own(const char *name);

static inline bool vgpu_elf_contains(const struct vgpu_elf *elf, const void *address) {
    return (uintptr_t)address >= elf->start && (uintptr_t)address < elf->end;
}

/* libc's own functions, past every preload. NULL only where libc has none (glibc before 2.34 keeps
 * them in libdl.so.2, which is loaded if it must be). */
enum vgpu_libc_function {
    VGPU_LIBC_DLSYM,
    VGPU_LIBC_DLVSYM,
    VGPU_LIBC_DLOPEN,
    VGPU_LIBC_DLMOPEN,
    VGPU_LIBC_DL_ITERATE_PHDR,
    VGPU_LIBC_FUNCTIONS
};
void *vgpu_libc(enum vgpu_libc_function function);

/* String equality without a call that a sanitizer's runtime could have intercepted. */
VGPU_UNINSTRUMENTED static inline bool vgpu_elf_same(const char *a, const char *b) {
    while (*a && *a == *b) a++, b++;
    return *a == *b;
}

#endif
