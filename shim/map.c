#include "map.h"

#include <stddef.h>
#include <stdlib.h>

#define FIRST_SIZE 64

static struct vgpu_node **chain_of(const struct vgpu_map *map, uint64_t key) {
    return &map->chains[(key * UINT64_C(0x9e3779b97f4a7c15) >> 24) & (map->size - 1)];
}

struct vgpu_node *vgpu_map_find(const struct vgpu_map *map, uint64_t key) {
    if (!map->size) return NULL;
    struct vgpu_node *node = *chain_of(map, key);
    while (node && node->key != key) node = node->next;
    return node;
}

static void grow(struct vgpu_map *map) {
    struct vgpu_map larger = {.size = map->size ? 2 * map->size : FIRST_SIZE, .count = map->count};
    larger.chains = calloc(larger.size, sizeof *larger.chains);
    if (!larger.chains) return; /* longer chains will do */
    for (uint64_t i = 0; i < map->size; i++)
        for (struct vgpu_node *moved = map->chains[i], *next; moved; moved = next) {
            next = moved->next;
            struct vgpu_node **link = chain_of(&larger, moved->key);
            moved->next = *link;
            *link = moved;
        }
    free(map->chains);
    *map = larger;
}

bool vgpu_map_put(struct vgpu_map *map, struct vgpu_node *node) {
    if (map->count >= map->size) grow(map);
    if (!map->size) return false;
    struct vgpu_node **link = chain_of(map, node->key);
    node->next = *link;
    *link = node;
    map->count++;
    return true;
}

struct vgpu_node *vgpu_map_take(struct vgpu_map *map, uint64_t key) {
    if (!map->size) return NULL;
    struct vgpu_node **link = chain_of(map, key);
    while (*link && (*link)->key != key) link = &(*link)->next;
    struct vgpu_node *node = *link;
    if (!node) return NULL;
    *link = node->next;
    node->next = NULL;
    map->count--;
    return node;
}

struct vgpu_node *vgpu_map_sift(struct vgpu_map *map,
                                bool (*wanted)(const struct vgpu_node *, uint64_t),
                                uint64_t argument) {
    struct vgpu_node *list = NULL;
    for (uint64_t i = 0; i < map->size; i++)
        for (struct vgpu_node **link = &map->chains[i]; *link;) {
            struct vgpu_node *node = *link;
            if (!wanted(node, argument)) {
                link = &node->next;
                continue;
            }
            *link = node->next;
            node->next = list;
            list = node;
            map->count--;
        }
    return list;
}
