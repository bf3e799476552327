/* A chained hash map of 64-bit keys. Not thread-safe: each owner has its own lock. An entry begins
 * with a struct vgpu_node and keeps its place in memory, in the map and out of it. */
#ifndef VGPU_MAP_H
#define VGPU_MAP_H

#include <stdbool.h>
#include <stdint.h>

struct vgpu_node {
    uint64_t key;
    struct vgpu_node *next;
};

struct vgpu_map {
    struct vgpu_node **chains;
    uint64_t size, count;
};

struct vgpu_node *vgpu_map_find(const struct vgpu_map *map, uint64_t key);

/* False without host memory for the first chains; the entry is then not in the map. */
bool vgpu_map_put(struct vgpu_map *map, struct vgpu_node *node);

/* Takes out the newest entry of the key, or returns NULL. */
struct vgpu_node *vgpu_map_take(struct vgpu_map *map, uint64_t key);

/* Takes out every entry that is wanted, as a list. */
struct vgpu_node *vgpu_map_sift(struct vgpu_map *map,
                                bool (*wanted)(const struct vgpu_node *, uint64_t),
                                uint64_t argument);

#endif
