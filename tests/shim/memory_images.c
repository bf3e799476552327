/* How much memory a module image's variables take. Sources: shim/images.c. */
#include "memory_check.h"

#include <elf.h>

#include "../../shim/images.h"

static void text(const char *image, uint64_t wanted, const char *name) {
    uint64_t bytes = 77;
    bool told = vgpu_image_globals(image, &bytes);
    check(told && bytes == wanted, name, bytes, wanted);
}

static void ptx(void) {
    text(".version 6.0\n.target sm_50\n", 0, "no variables");
    text(".version 6.0\n.global .align 4 .b8 x[2097152];\n", 2097152, "bytes");
    text("// by nvcc\n.version 8.0\n.visible .global .align 8 .u64 x[3];\n", 24, "words");
    text(".version 6.0\n.global .f32 one;\n", 4, "a single one");
    text(".version 6.0\n.global .align 16 .v4 .f32 v[10];\n", 160, "vectors");
    text(".version 6.0\n.global .align 4 .b8 m[3][5][7];\n", 105, "dimensions");
    text(".version 6.0\n.global .align 4 .u32 t[4] = {1, 2, 3, 4};\n", 16, "with values");
    text(".version 6.0\n.extern .global .b8 x[999];\n.global .b8 y[1];\n", 1,
         "external ones lie elsewhere");
    text(".version 6.0\n.global .attribute(.managed) .align 4 .b8 x[100];\n", 100, "attributes");
    text(".version 6.0\n.entry k(.param .u64 .ptr .global .align 4 p) {\nld.global.u32 %r1, "
         "[%rd1];\n}\n",
         0, "an address space is no variable");
    text(".version 6.0\n.global .b8 x[0xffffffffffffffff];\n.global .b8 y[2];\n", UINT64_MAX,
         "saturates");
    uint64_t bytes = 1;
    check(!vgpu_image_globals("\x01\x02\x03\x04 garbage", &bytes) && bytes == 0,
          "an unknown image is not told", bytes, 0);
    check(!vgpu_image_globals(NULL, &bytes), "no image", 0, 0);
    check(!vgpu_image_file_globals("/nonexistent", &bytes), "no file", 0, 0);
}

static void cubin(void) {
    static struct {
        Elf64_Ehdr header;
        Elf64_Shdr section[4];
        char names[64];
    } image = {.header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64},
                          .e_shentsize = sizeof(Elf64_Shdr),
                          .e_shnum = 4,
                          .e_shstrndx = 1}};
    image.header.e_shoff = offsetof(typeof(image), section);
    memcpy(image.names, "\0.nv.global\0.nv.global.init\0.nv.shared.k", 41);
    image.section[1].sh_offset = offsetof(typeof(image), names);
    image.section[0] = (Elf64_Shdr){.sh_name = 1, .sh_size = 1000};
    image.section[2] = (Elf64_Shdr){.sh_name = 12, .sh_size = 24};
    image.section[3] = (Elf64_Shdr){.sh_name = 28, .sh_size = 4096};
    text((const char *)&image, 1024, "cubin: zeroed and initialised variables, not shared memory");

    struct {
        uint32_t magic;
        uint16_t version, header_bytes;
        uint64_t bytes;
        struct {
            uint16_t kind, version;
            uint32_t header_bytes;
            uint64_t bytes;
            uint32_t unused[6];
            uint64_t flags, more;
        } entry;
        typeof(image) cubin;
    } fat = {0xba55ed50U, 1, 16, 0, {2, 1, 56, sizeof image, {0}, 0, 0}, image};
    fat.bytes = sizeof fat - 16;
    struct {
        uint32_t magic, version;
        const void *data;
    } wrapper = {0x466243b1U, 1, &fat};
    text((const char *)&fat, 1024, "fat binary");
    text((const char *)&wrapper, 1024, "behind its wrapper");
    fat.entry.flags = 0x2000;
    uint64_t bytes;
    check(!vgpu_image_globals(&fat, &bytes), "a compressed one is not told", bytes, 0);
}

int main(void) {
    ptx();
    cubin();
    return failures != 0;
}
