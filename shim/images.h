/* Module images: how much memory their global variables take. */
#ifndef VGPU_IMAGES_H
#define VGPU_IMAGES_H

#include <stdbool.h>
#include <stdint.h>

/* Sums the global variables of a module image as cuModuleLoadData takes it: PTX text, a cubin, or a
 * fat binary of them that is not compressed (of several, the greatest counts). False: not told. */
bool vgpu_image_globals(const void *image, uint64_t *bytes);

/* The same for a file. */
bool vgpu_image_file_globals(const char *path, uint64_t *bytes);

#endif
