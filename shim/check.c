/* vgpu-check FILE: whether this library loads. ld.so only warns about a preload that does not. */
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv) {
    if (argc == 2 && dlopen(argv[1], RTLD_NOW | RTLD_LOCAL)) return 0;
    fprintf(stderr, "%s\n", argc == 2 ? dlerror() : "usage: vgpu-check FILE");
    return 1;
}
