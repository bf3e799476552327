#include "blocks.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* An address and its block fall into the same shard, so that one lock covers both tables. */
#define SHARDS 64
#define FIRST_SIZE 16

/* Open addressing, linear probing, deletion by shifting back: no tombstones, so the cost of a
 * look-up depends on the load (<= 3/4) and never on what was there before. */
struct entry {
    uint64_t key; /* 0 = empty */
    uint64_t value;
    uint32_t owner;
    uint16_t device;
    uint16_t piece;
};

struct table {
    struct entry *entries;
    uint64_t size; /* a power of two, or 0 */
    uint64_t count;
};

struct shard {
    pthread_mutex_t lock;
    struct table pointers; /* address -> charge (pieces: 0) */
    struct table blocks;   /* block number and owner -> live pieces */
} __attribute__((aligned(64)));

static struct shard shards[SHARDS] = {
    [0 ... SHARDS - 1] = {.lock = PTHREAD_MUTEX_INITIALIZER},
};

static uint64_t mix(uint64_t key) {
    key *= UINT64_C(0x9e3779b97f4a7c15);
    return key ^ (key >> 32);
}

static struct shard *shard_of(uint64_t address) {
    return &shards[mix(address / VGPU_BLOCK_BYTES) >> 58];
}

static struct entry *table_find(const struct table *table, uint64_t key) {
    if (!table->size) return NULL;
    for (uint64_t i = mix(key);; i++) {
        struct entry *entry = &table->entries[i & (table->size - 1)];
        if (entry->key == key) return entry;
        if (entry->key == 0) return NULL;
    }
}

static struct entry *table_free_place(const struct table *table, uint64_t key) {
    for (uint64_t i = mix(key);; i++) {
        struct entry *entry = &table->entries[i & (table->size - 1)];
        if (entry->key == 0) return entry;
    }
}

static bool table_grow(struct table *table) {
    struct table larger = {.size = table->size ? 2 * table->size : FIRST_SIZE,
                           .count = table->count};
    larger.entries = calloc(larger.size, sizeof *larger.entries);
    if (!larger.entries) return false;
    for (uint64_t i = 0; i < table->size; i++)
        if (table->entries[i].key)
            *table_free_place(&larger, table->entries[i].key) = table->entries[i];
    free(table->entries);
    *table = larger;
    return true;
}

/* A zeroed entry with the key set, or NULL: no host memory. */
static struct entry *table_add(struct table *table, uint64_t key) {
    if (4 * (table->count + 1) > 3 * table->size && !table_grow(table) &&
        table->count + 1 >= table->size)
        return NULL;
    struct entry *entry = table_free_place(table, key);
    *entry = (struct entry){.key = key};
    table->count++;
    return entry;
}

static void table_remove(struct table *table, struct entry *gone) {
    uint64_t mask = table->size - 1;
    uint64_t hole = (uint64_t)(gone - table->entries);
    for (uint64_t i = (hole + 1) & mask; table->entries[i].key; i = (i + 1) & mask) {
        uint64_t home = mix(table->entries[i].key) & mask;
        /* Move it if its home does not lie cyclically in (hole, i]. */
        if (((i - home) & mask) < ((i - hole) & mask)) continue;
        table->entries[hole] = table->entries[i];
        hole = i;
    }
    table->entries[hole].key = 0;
    table->count--;
}

/* Contexts do not share blocks: with the owner in the key a block that a dying context still holds
 * is told apart from a new one at the same place. */
static uint64_t block_key(uint64_t address, uint32_t owner) {
    return ((address / VGPU_BLOCK_BYTES) << 28 | (owner & 0xfffffff)) + 1;
}

/* Removes one pointer; returns the charge that goes with it. */
static uint64_t shard_remove(struct shard *shard, struct entry *found) {
    uint64_t charge = found->value;
    if (found->piece) {
        struct entry *block = table_find(&shard->blocks, block_key(found->key, found->owner));
        if (block && --block->value == 0) {
            table_remove(&shard->blocks, block);
            charge = VGPU_BLOCK_BYTES;
        }
    }
    table_remove(&shard->pointers, found);
    return charge;
}

uint64_t vgpu_blocks_put(const struct vgpu_block *block) {
    struct shard *shard = shard_of(block->address);
    uint64_t unneeded = 0;
    pthread_mutex_lock(&shard->lock);
    struct entry *found = table_find(&shard->pointers, block->address);
    if (found) unneeded += shard_remove(shard, found);
    found = table_add(&shard->pointers, block->address);
    /* Without host memory for an entry the charge stays until the process ends: on the safe side.
     */
    if (found) {
        found->owner = block->owner;
        found->device = block->device;
        found->piece = block->piece;
        if (!block->piece) {
            found->value = block->charge;
        } else {
            uint64_t key = block_key(block->address, block->owner);
            struct entry *whole = table_find(&shard->blocks, key);
            if (whole) unneeded += block->charge;
            else if ((whole = table_add(&shard->blocks, key))) {
                whole->owner = block->owner;
                whole->device = block->device;
            }
            if (whole) whole->value++;
        }
    }
    pthread_mutex_unlock(&shard->lock);
    return unneeded;
}

bool vgpu_blocks_take(uint64_t address, struct vgpu_block *block) {
    struct shard *shard = shard_of(address);
    pthread_mutex_lock(&shard->lock);
    struct entry *found = address ? table_find(&shard->pointers, address) : NULL;
    if (found) {
        *block = (struct vgpu_block){.address = address,
                                     .owner = found->owner,
                                     .device = found->device,
                                     .piece = found->piece};
        block->charge = shard_remove(shard, found);
    }
    pthread_mutex_unlock(&shard->lock);
    return found != NULL;
}

uint64_t vgpu_blocks_return(const struct vgpu_block *block) {
    struct vgpu_block whole = *block;
    if (block->piece) whole.charge = VGPU_BLOCK_BYTES;
    uint64_t unneeded = vgpu_blocks_put(&whole);
    /* A piece that had left its block alive comes back with nothing to its name; if the block has
     * gone meanwhile, the caller must charge it anew: the difference wraps, adjust is signed. */
    return unneeded - (whole.charge - block->charge);
}

static void table_drop_owner(struct table *table, uint32_t owner, uint64_t charge,
                             uint64_t *bytes) {
    for (uint64_t i = 0; i < table->size;) {
        struct entry *entry = &table->entries[i];
        if (!entry->key || entry->owner != owner) {
            i++;
            continue;
        }
        bytes[entry->device] += charge ? charge : entry->value;
        table_remove(table, entry); /* may shift another one into this place: look again */
    }
}

void vgpu_blocks_drop_owner(uint32_t owner, uint64_t *bytes) {
    for (int i = 0; i < SHARDS; i++) {
        pthread_mutex_lock(&shards[i].lock);
        table_drop_owner(&shards[i].pointers, owner, 0, bytes);
        table_drop_owner(&shards[i].blocks, owner, VGPU_BLOCK_BYTES, bytes);
        pthread_mutex_unlock(&shards[i].lock);
    }
}

static bool list_shard(const struct table *table, uint32_t owner, uint64_t **list,
                       uint64_t *count) {
    uint64_t *longer = realloc(*list, (*count + table->count) * sizeof **list);
    if (!longer) return false;
    *list = longer;
    for (uint64_t i = 0; i < table->size; i++)
        if (table->entries[i].key && table->entries[i].owner == owner)
            longer[(*count)++] = table->entries[i].key;
    return true;
}

uint64_t *vgpu_blocks_list(uint32_t owner, uint64_t *count) {
    uint64_t *list = NULL;
    *count = 0;
    for (int i = 0; i < SHARDS; i++) {
        pthread_mutex_lock(&shards[i].lock);
        bool listed =
            !shards[i].pointers.count || list_shard(&shards[i].pointers, owner, &list, count);
        pthread_mutex_unlock(&shards[i].lock);
        if (!listed) break;
    }
    return list;
}

void vgpu_blocks_forget(void) {
    for (int i = 0; i < SHARDS; i++) {
        /* Another thread of the parent may have held it at the fork; its table may be half
         * changed, so the memory is left alone. */
        pthread_mutex_init(&shards[i].lock, NULL);
        memset(&shards[i].pointers, 0, sizeof shards[i].pointers);
        memset(&shards[i].blocks, 0, sizeof shards[i].blocks);
    }
}

uint64_t vgpu_blocks_count(void) {
    uint64_t count = 0;
    for (int i = 0; i < SHARDS; i++) {
        pthread_mutex_lock(&shards[i].lock);
        count += shards[i].pointers.count;
        pthread_mutex_unlock(&shards[i].lock);
    }
    return count;
}
