#include "handles.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define GRANULARITY (UINT64_C(2) << 20)

struct vgpu_backing {
    uint64_t bytes;
    uint32_t device;
    uint32_t references; /* handle references, mappings, and a release in flight */
    bool exported;
};

struct node {
    uint64_t key; /* handle value, or address */
    struct node *next;
};

struct handle {
    struct node node;
    struct vgpu_backing *backing;
    uint32_t references;
};

struct vgpu_mapping {
    struct node node;
    struct vgpu_backing *backing; /* NULL: of a handle that we do not know */
    uint64_t bytes;
};

/* Chained: an entry must keep its place while it is out of the table. */
struct table {
    struct node **chains;
    uint64_t size, count;
};

static struct table handles, mappings;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct node **chain_of(const struct table *table, uint64_t key) {
    return &table->chains[(key * UINT64_C(0x9e3779b97f4a7c15) >> 24) & (table->size - 1)];
}

/* The link that points at the key's node, or at the end of its chain; NULL: empty table. */
static struct node **table_find(const struct table *table, uint64_t key) {
    if (!table->size) return NULL;
    struct node **link = chain_of(table, key);
    while (*link && (*link)->key != key) link = &(*link)->next;
    return link;
}

static void table_put(struct table *table, struct node *node) {
    if (table->count >= table->size) {
        struct table larger = {.size = table->size ? 2 * table->size : 64, .count = table->count};
        larger.chains = calloc(larger.size, sizeof *larger.chains);
        if (larger.chains) {
            for (uint64_t i = 0; i < table->size; i++)
                for (struct node *moved = table->chains[i], *next; moved; moved = next) {
                    next = moved->next;
                    struct node **link = chain_of(&larger, moved->key);
                    moved->next = *link;
                    *link = moved;
                }
            free(table->chains);
            *table = larger;
        }
    }
    if (!table->size) return;
    struct node **link = chain_of(table, node->key);
    node->next = *link;
    *link = node;
    table->count++;
}

static struct node *table_take(struct table *table, uint64_t key) {
    struct node **link = table_find(table, key);
    if (!link || !*link) return NULL;
    struct node *node = *link;
    *link = node->next;
    node->next = NULL;
    table->count--;
    return node;
}

static struct handle *handle_find(uint64_t value) {
    struct node **link = table_find(&handles, value);
    return link ? (struct handle *)*link : NULL;
}

static void handle_add(uint64_t value, struct vgpu_backing *backing) {
    struct handle *handle = calloc(1, sizeof *handle);
    if (!handle) return; /* the charge then stays until the process ends */
    handle->node.key = value;
    handle->backing = backing;
    handle->references = 1;
    backing->references++;
    table_put(&handles, &handle->node);
}

static struct vgpu_freed drop_reference(struct vgpu_backing *backing) {
    struct vgpu_freed freed = {0};
    if (backing && --backing->references == 0) {
        freed = (struct vgpu_freed){backing->bytes, backing->device, backing->exported};
        free(backing);
    }
    return freed;
}

void vgpu_handles_put(uint64_t value, uint64_t bytes, uint32_t device) {
    pthread_mutex_lock(&lock);
    struct handle *known = handle_find(value);
    if (known && bytes == 0) { /* the driver gave an import the value of a handle that we hold */
        known->references++;
        known->backing->references++;
    } else {
        struct vgpu_backing *backing = calloc(1, sizeof *backing);
        if (backing) {
            backing->bytes = bytes;
            backing->device = device;
            handle_add(value, backing);
        }
    }
    pthread_mutex_unlock(&lock);
}

/* The mapping that covers an address; a search through all of them only if it is not the start. */
static struct vgpu_mapping *mapping_at(uint64_t address) {
    struct node **link = table_find(&mappings, address);
    if (link && *link) return (struct vgpu_mapping *)*link;
    for (uint64_t i = 0; i < mappings.size; i++)
        for (struct node *node = mappings.chains[i]; node; node = node->next)
            if (address - node->key < ((struct vgpu_mapping *)node)->bytes)
                return (struct vgpu_mapping *)node;
    return NULL;
}

void vgpu_handles_retain(uint64_t value, uint64_t address) {
    pthread_mutex_lock(&lock);
    struct handle *known = handle_find(value);
    struct vgpu_mapping *mapping = known ? NULL : mapping_at(address);
    if (known) {
        known->references++;
        known->backing->references++;
    } else if (mapping && mapping->backing) {
        handle_add(value, mapping->backing);
    }
    pthread_mutex_unlock(&lock);
}

struct vgpu_backing *vgpu_handles_release(uint64_t value) {
    struct vgpu_backing *backing = NULL;
    pthread_mutex_lock(&lock);
    struct handle *handle = handle_find(value);
    if (handle) {
        backing = handle->backing; /* its reference now belongs to the release in flight */
        if (--handle->references == 0) free(table_take(&handles, value));
    }
    pthread_mutex_unlock(&lock);
    return backing;
}

struct vgpu_freed vgpu_handles_released(struct vgpu_backing *backing) {
    pthread_mutex_lock(&lock);
    struct vgpu_freed freed = drop_reference(backing);
    pthread_mutex_unlock(&lock);
    return freed;
}

void vgpu_handles_unrelease(uint64_t value, struct vgpu_backing *backing) {
    pthread_mutex_lock(&lock);
    struct handle *handle = handle_find(value);
    if (handle) {
        handle->references++;
    } else {
        handle_add(value, backing);
        backing->references--; /* handle_add took one more */
    }
    pthread_mutex_unlock(&lock);
}

struct vgpu_mapping *vgpu_handles_map(uint64_t value, uint64_t address, uint64_t bytes) {
    struct vgpu_mapping *mapping = calloc(1, sizeof *mapping);
    if (!mapping) return NULL;
    mapping->node.key = address;
    mapping->bytes = bytes;
    pthread_mutex_lock(&lock);
    struct handle *handle = handle_find(value);
    if (handle) {
        mapping->backing = handle->backing;
        mapping->backing->references++;
    }
    pthread_mutex_unlock(&lock);
    return mapping;
}

void vgpu_handles_mapped(struct vgpu_mapping *mapping) {
    if (!mapping) return;
    pthread_mutex_lock(&lock);
    table_put(&mappings, &mapping->node);
    pthread_mutex_unlock(&lock);
}

struct vgpu_freed vgpu_handles_unmapped(struct vgpu_mapping *mapping) {
    struct vgpu_freed freed = {0};
    if (!mapping) return freed;
    pthread_mutex_lock(&lock);
    freed = drop_reference(mapping->backing);
    pthread_mutex_unlock(&lock);
    free(mapping);
    return freed;
}

struct vgpu_mapping *vgpu_handles_unmap(uint64_t address, uint64_t bytes) {
    struct vgpu_mapping *first = NULL, **last = &first;
    pthread_mutex_lock(&lock);
    for (uint64_t at = address; at - address < bytes && mappings.count;) {
        struct vgpu_mapping *mapping = (struct vgpu_mapping *)table_take(&mappings, at);
        at += mapping && mapping->bytes ? mapping->bytes : GRANULARITY;
        if (!mapping) continue;
        *last = mapping;
        last = (struct vgpu_mapping **)&mapping->node.next;
    }
    pthread_mutex_unlock(&lock);
    return first;
}

struct vgpu_mapping *vgpu_handles_next(struct vgpu_mapping *mapping) {
    return (struct vgpu_mapping *)mapping->node.next;
}

void vgpu_handles_export(uint64_t value) {
    pthread_mutex_lock(&lock);
    struct handle *handle = handle_find(value);
    if (handle) handle->backing->exported = true;
    pthread_mutex_unlock(&lock);
}

void vgpu_handles_forget(void) {
    pthread_mutex_init(&lock, NULL);
    memset(&handles, 0, sizeof handles);
    memset(&mappings, 0, sizeof mappings);
}
