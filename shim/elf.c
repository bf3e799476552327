#define _GNU_SOURCE
#include "elf.h"

#include <dlfcn.h>
#include <stddef.h>

#include "atomics.h"

#define VERSION_HIDDEN 0x8000U

/* glibc relocates the dynamic section in place, but not the kernel's vdso (nor does musl). */
VGPU_UNINSTRUMENTED static const void *at(uintptr_t base, ElfW(Addr) pointer) {
    return (const void *)(pointer < base ? base + pointer : pointer);
}

VGPU_UNINSTRUMENTED static bool read_dynamic(struct vgpu_elf *elf, uintptr_t base,
                                             const ElfW(Dyn) * dynamic, const char *path) {
    const ElfW(Dyn) *soname = NULL;
    elf->base = base;
    elf->start = elf->end = 0;
    elf->path = path ? path : "";
    elf->soname = "";
    elf->symbols = NULL;
    elf->strings = NULL;
    elf->gnu_hash = elf->sysv_hash = NULL;
    elf->versions = NULL;
    if (!dynamic) return false;
    for (; dynamic->d_tag != DT_NULL; dynamic++) {
        const void *pointer = at(base, dynamic->d_un.d_ptr);
        switch (dynamic->d_tag) {
        case DT_SYMTAB:
            elf->symbols = pointer;
            break;
        case DT_STRTAB:
            elf->strings = pointer;
            break;
        case DT_GNU_HASH:
            elf->gnu_hash = pointer;
            break;
        case DT_HASH:
            elf->sysv_hash = pointer;
            break;
        case DT_VERSYM:
            elf->versions = pointer;
            break;
        case DT_SONAME:
            soname = dynamic;
            break;
        default:
            break;
        }
    }
    if (!elf->symbols || !elf->strings) return false;
    if (soname) elf->soname = elf->strings + soname->d_un.d_val;
    return true;
}

VGPU_UNINSTRUMENTED static void *defined_as(const struct vgpu_elf *elf, uint32_t index,
                                            const char *name) {
    const ElfW(Sym) *symbol = &elf->symbols[index];
    unsigned type = ELF64_ST_TYPE(symbol->st_info), bind = ELF64_ST_BIND(symbol->st_info);
    if (symbol->st_shndx == SHN_UNDEF || symbol->st_value == 0) return NULL;
    if (type != STT_FUNC && type != STT_OBJECT && type != STT_NOTYPE) return NULL;
    if (bind != STB_GLOBAL && bind != STB_WEAK && bind != STB_GNU_UNIQUE) return NULL;
    if (elf->versions && (elf->versions[index] & VERSION_HIDDEN)) return NULL;
    if (!vgpu_elf_same(elf->strings + symbol->st_name, name)) return NULL;
    return (void *)(elf->base + symbol->st_value);
}

/* The layout of DT_GNU_HASH: bucket count, first symbol, bloom words, bloom shift, bloom filter,
 * buckets, one hash a symbol (the low bit ends a chain). */
VGPU_UNINSTRUMENTED static void *look_up_gnu(const struct vgpu_elf *elf, const char *name) {
    const uint32_t *table = elf->gnu_hash;
    uint32_t buckets = table[0], first = table[1], words = table[2], shift = table[3];
    if (buckets == 0 || words == 0) return NULL;
    uint32_t hash = 5381;
    for (const char *c = name; *c; c++) hash = hash * 33 + (unsigned char)*c;

    const ElfW(Addr) *bloom = (const ElfW(Addr) *)(const void *)&table[4];
    const uint32_t bits = 8 * sizeof(ElfW(Addr));
    ElfW(Addr) word = bloom[(hash / bits) % words];
    if (!((word >> (hash % bits)) & (word >> ((hash >> shift) % bits)) & 1)) return NULL;

    const uint32_t *bucket = (const uint32_t *)(const void *)&bloom[words];
    const uint32_t *chain = &bucket[buckets];
    uint32_t index = bucket[hash % buckets];
    if (index < first) return NULL;
    for (;; index++) {
        uint32_t entry = chain[index - first];
        if ((entry | 1) == (hash | 1)) {
            void *found = defined_as(elf, index, name);
            if (found) return found;
        }
        if (entry & 1) return NULL;
    }
}

VGPU_UNINSTRUMENTED static void *look_up_sysv(const struct vgpu_elf *elf, const char *name) {
    const uint32_t *table = elf->sysv_hash;
    uint32_t buckets = table[0], hash = 0;
    if (buckets == 0) return NULL;
    for (const char *c = name; *c; c++) {
        hash = (hash << 4) + (unsigned char)*c;
        hash = (hash ^ ((hash >> 24) & 0xf0)) & 0x0fffffff;
    }
    const uint32_t *bucket = &table[2], *chain = &bucket[buckets];
    for (uint32_t index = bucket[hash % buckets]; index != STN_UNDEF; index = chain[index]) {
        void *found = defined_as(elf, index, name);
        if (found) return found;
    }
    return NULL;
}

VGPU_UNINSTRUMENTED void *vgpu_elf_symbol(const struct vgpu_elf *elf, const char *name) {
    if (elf->gnu_hash) return look_up_gnu(elf, name);
    if (elf->sysv_hash) return look_up_sysv(elf, name);
    return NULL;
}

/* --- The shim itself ------------------------------------------------------------------------ */

extern const char __ehdr_start[] __attribute__((visibility("hidden")));
extern const char _end[] __attribute__((visibility("hidden")));
extern ElfW(Dyn) _DYNAMIC[] __attribute__((visibility("hidden")));

bool vgpu_elf_is_own(const void *address) {
    return (uintptr_t)address >= (uintptr_t)__ehdr_start && (uintptr_t)address < (uintptr_t)_end;
}

void *vgpu_elf_own(const char *name) {
    struct vgpu_elf elf;
    if (!read_dynamic(&elf, (uintptr_t)__ehdr_start, _DYNAMIC, "")) return NULL;
    return vgpu_elf_symbol(&elf, name);
}

/* --- libc's own functions ------------------------------------------------------------------- */

static const char *const libc_names[VGPU_LIBC_FUNCTIONS] = {
    [VGPU_LIBC_DLSYM] = "dlsym",
    [VGPU_LIBC_DLVSYM] = "dlvsym",
    [VGPU_LIBC_DLOPEN] = "dlopen",
    [VGPU_LIBC_DLMOPEN] = "dlmopen",
    [VGPU_LIBC_DL_ITERATE_PHDR] = "dl_iterate_phdr",
};
static void *libc_pointers[VGPU_LIBC_FUNCTIONS];

/* Walks the loader's list without its lock: libc and libdl are never unloaded and stand before
 * anything that a program opens later. dl_iterate_phdr itself may be a sanitizer's, not ready yet.
 */
VGPU_UNINSTRUMENTED static void *libc_symbol(const char *soname, const char *name) {
    for (const struct link_map *map = _r_debug.r_map; map; map = map->l_next) {
        struct vgpu_elf elf;
        if (!read_dynamic(&elf, map->l_addr, map->l_ld, map->l_name)) continue;
        if (vgpu_elf_same(elf.soname, soname)) return vgpu_elf_symbol(&elf, name);
    }
    return NULL;
}

VGPU_UNINSTRUMENTED void *vgpu_libc(enum vgpu_libc_function function) {
    void *found = vgpu_load_acquire(&libc_pointers[function]);
    if (found) return found;
    const char *name = libc_names[function];
    found = libc_symbol("libc.so.6", name);
    if (!found) found = libc_symbol("libdl.so.2", name);
    if (!found) {
        /* glibc before 2.34, and nobody has loaded libdl: its own loader for such cases. */
        void *internal = libc_symbol("libc.so.6", "__libc_dlopen_mode");
        const unsigned internal_call = 0x80000000U;
        if (internal &&
            ((void *(*)(const char *, unsigned))internal)("libdl.so.2", RTLD_NOW | internal_call))
            found = libc_symbol("libdl.so.2", name);
    }
    vgpu_store_release(&libc_pointers[function], found);
    return found;
}

/* --- All loaded objects --------------------------------------------------------------------- */

struct visit {
    bool (*visit)(const struct vgpu_elf *elf, void *argument);
    void *argument;
    const void *containing; /* only the object with this address; NULL: all */
};

VGPU_UNINSTRUMENTED static int visit_one(struct dl_phdr_info *info, size_t size, void *argument) {
    const struct visit *visit = argument;
    const ElfW(Dyn) *dynamic = NULL;
    struct vgpu_elf elf;
    uintptr_t start = UINTPTR_MAX, end = 0;
    (void)size;
    for (unsigned i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        uintptr_t from = info->dlpi_addr + header->p_vaddr;
        if (header->p_type == PT_DYNAMIC) dynamic = (const ElfW(Dyn) *)from;
        if (header->p_type != PT_LOAD) continue;
        if (from < start) start = from;
        if (from + header->p_memsz > end) end = from + header->p_memsz;
    }
    uintptr_t wanted = (uintptr_t)visit->containing;
    if (wanted && (wanted < start || wanted >= end)) return 0;
    if (!read_dynamic(&elf, info->dlpi_addr, dynamic, info->dlpi_name)) return 0;
    elf.start = start;
    elf.end = end;
    return visit->visit(&elf, visit->argument);
}

VGPU_UNINSTRUMENTED static bool visit_all(struct visit *visit) {
    int (*iterate)(int (*)(struct dl_phdr_info *, size_t, void *), void *);
    iterate = (typeof(iterate))vgpu_libc(VGPU_LIBC_DL_ITERATE_PHDR);
    return iterate && iterate(visit_one, visit) != 0;
}

VGPU_UNINSTRUMENTED bool vgpu_elf_each(bool (*visit)(const struct vgpu_elf *elf, void *argument),
                                       void *argument) {
    return visit_all(&(struct visit){.visit = visit, .argument = argument});
}

VGPU_UNINSTRUMENTED static bool copy_out(const struct vgpu_elf *elf, void *found) {
    *(struct vgpu_elf *)found = *elf;
    return true;
}

VGPU_UNINSTRUMENTED bool vgpu_elf_at(const void *address, struct vgpu_elf *found) {
    return visit_all(&(struct visit){copy_out, found, address});
}
