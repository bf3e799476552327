#include "images.h"

#include <ctype.h>
#include <elf.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FATBIN_WRAPPER 0x466243b1U
#define FATBIN 0xba55ed50U
#define COMPRESSED 0x2000U
enum { ENTRY_PTX = 1, ENTRY_CUBIN = 2 };

/* As nvcc and ptxas write them (observed; documented by third parties only). */
struct wrapper {
    uint32_t magic, version;
    const void *data;
};
struct fatbin {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t bytes;
};
struct entry {
    uint16_t kind, version;
    uint32_t header_bytes;
    uint64_t bytes;
    uint32_t unused[6];
    uint64_t flags;
};
_Static_assert(offsetof(struct entry, flags) == 40, "as in a fat binary");

static void add(uint64_t *sum, uint64_t bytes) {
    if (__builtin_add_overflow(*sum, bytes, sum)) *sum = UINT64_MAX;
}

/* --- cubin: sections .nv.global (zeroes) and .nv.global.init --- */

static bool cubin_globals(const char *image, uint64_t *bytes) {
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)image;
    if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_shentsize != sizeof(Elf64_Shdr) ||
        header->e_shstrndx >= header->e_shnum)
        return false;
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(image + header->e_shoff);
    const char *names = image + sections[header->e_shstrndx].sh_offset;
    for (unsigned i = 0; i < header->e_shnum; i++)
        if (strncmp(names + sections[i].sh_name, ".nv.global", 10) == 0)
            add(bytes, sections[i].sh_size);
    return true;
}

/* --- PTX: ".global [.attribute(…)] [.align n] .type name[n]…;" --- */

static uint64_t type_bytes(const char *type) {
    static const struct {
        const char *name;
        unsigned bytes;
    } types[] = {{"b8", 1},  {"u8", 1},  {"s8", 1},  {"b16", 2},   {"u16", 2},  {"s16", 2},
                 {"f16", 2}, {"b32", 4}, {"u32", 4}, {"s32", 4},   {"f32", 4},  {"b64", 8},
                 {"u64", 8}, {"s64", 8}, {"f64", 8}, {"b128", 16}, {"f16x2", 4}};
    size_t length = 0;
    while (isalnum((unsigned char)type[length])) length++;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strlen(types[i].name) == length && strncmp(types[i].name, type, length) == 0)
            return types[i].bytes;
    return 0;
}

/* One declaration, from behind ".global" to its end. */
static uint64_t declared(const char *at, const char *end) {
    uint64_t bytes = 0;
    for (; at < end && *at != '=' && *at != '{'; at++) {
        if (*at == '.' && type_bytes(at + 1)) {
            uint64_t lanes = bytes > 1 ? bytes : 1; /* .v2 or .v4 came before */
            bytes = lanes * type_bytes(at + 1);
        } else if (*at == '.' && at[1] == 'v' && (at[2] == '2' || at[2] == '4')) {
            bytes = (uint64_t)(at[2] - '0');
        } else if (*at == '[') {
            uint64_t count = strtoull(at + 1, NULL, 0);
            if (__builtin_mul_overflow(bytes, count, &bytes)) return UINT64_MAX;
        }
    }
    return bytes;
}

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

static void ptx_globals(const char *text, uint64_t *bytes) {
    for (const char *at = text; (at = strstr(at, ".global")) != NULL; at += 7) {
        /* Not "ld.global", not an address space of a parameter (".ptr .global .align 4 name,"). */
        if ((at > text && !is_space(at[-1]) && at[-1] != ';') || !is_space(at[7])) continue;
        const char *back = at;
        while (back > text && is_space(back[-1])) back--;
        if (back - text >= 4 && strncmp(back - 4, ".ptr", 4) == 0) continue;
        if (back - text >= 7 && strncmp(back - 7, ".extern", 7) == 0) continue;
        add(bytes, declared(at + 7, at + 7 + strcspn(at + 7, ";")));
    }
}

static bool is_ptx(const char *text) {
    while (is_space(*text)) text++;
    return strncmp(text, "//", 2) == 0 || strncmp(text, "/*", 2) == 0 ||
           strncmp(text, ".version", 8) == 0;
}

/* --- fat binaries --- */

static bool fatbin_globals(const char *image, uint64_t *bytes) {
    const struct fatbin *header = (const struct fatbin *)image;
    const char *at = image + header->header_bytes, *end = at + header->bytes;
    bool told = false;
    while (at + sizeof(struct entry) <= end) {
        const struct entry *entry = (const struct entry *)at;
        const char *data = at + entry->header_bytes;
        uint64_t own = 0;
        if (entry->flags & COMPRESSED || entry->header_bytes < sizeof *entry) return false;
        if (entry->kind == ENTRY_CUBIN) told |= cubin_globals(data, &own);
        if (own > *bytes) *bytes = own;
        at = data + entry->bytes;
    }
    return told;
}

bool vgpu_image_globals(const void *image, uint64_t *bytes) {
    uint32_t magic;
    *bytes = 0;
    if (!image) return false;
    memcpy(&magic, image, sizeof magic);
    if (magic == FATBIN_WRAPPER) {
        image = ((const struct wrapper *)image)->data;
        if (!image) return false;
        memcpy(&magic, image, sizeof magic);
    }
    if (magic == FATBIN) return fatbin_globals(image, bytes);
    if (memcmp(image, ELFMAG, SELFMAG) == 0) return cubin_globals(image, bytes);
    if (!is_ptx(image)) return false;
    ptx_globals(image, bytes);
    return true;
}

bool vgpu_image_file_globals(const char *path, uint64_t *bytes) {
    struct stat info;
    bool told = false;
    *bytes = 0;
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return false;
    if (fstat(fd, &info) == 0 && info.st_size > 64 && info.st_size < (1 << 30)) {
        /* One page more than the file: text must end in a zero. */
        size_t size = (size_t)info.st_size, room = (size + 8192) & ~(size_t)4095;
        char *copy = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (copy != MAP_FAILED) {
            if (pread(fd, copy, size, 0) == info.st_size) told = vgpu_image_globals(copy, bytes);
            munmap(copy, room);
        }
    }
    close(fd);
    return told;
}
