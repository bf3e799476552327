#include "blocks.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "region.h"

/* An address and its block fall into the same shard, so that one lock covers both tables. */
#define SHARDS 64
#define FIRST_SIZE 16
/* The driver places pieces at multiples of 512 bytes, and promises 256. A piece is one bit of its
 * block: what is looked at to free it stays near, however many live (100,000 pieces of 512 bytes
 * are 49 blocks: 55 KiB in all). */
#define PIECE_STEP 256
#define PIECE_WORDS (VGPU_BLOCK_BYTES / PIECE_STEP / 64)

/* Open addressing, linear probing, deletion by shifting back: no tombstones, so the cost of a
 * look-up depends on the load (<= 3/4) and never on what was there before. */
struct entry {
    uint64_t key; /* 0 = empty */
    union {
        uint64_t charge;  /* of a pointer */
        uint64_t *pieces; /* of a block: a bit for each live one */
    };
    uint32_t owner;
    uint32_t device : 5;
    uint32_t count : 14;   /* of a block: live pieces */
    uint32_t leaving : 13; /* of a block: pieces that the driver is freeing, one a thread at most */
};

_Static_assert(VGPU_MAX_DEVICES <= 1 << 5, "a device's index fits");
_Static_assert(VGPU_BLOCK_BYTES / PIECE_STEP < 1 << 14, "a block's pieces can be counted");

struct table {
    struct entry *entries;
    uint64_t size; /* a power of two, or 0 */
    uint64_t count;
};

struct shard {
    pthread_mutex_t lock;
    struct table pointers; /* address -> charge, for what is no piece */
    struct table blocks;   /* block number + 1 -> live pieces */
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

static struct entry *find_block(const struct shard *shard, uint64_t address) {
    return table_find(&shard->blocks, address / VGPU_BLOCK_BYTES + 1);
}

static uint64_t *word_of(const struct entry *block, uint64_t address) {
    return &block->pieces[address % VGPU_BLOCK_BYTES / PIECE_STEP / 64];
}

static uint64_t bit_of(uint64_t address) { return UINT64_C(1) << (address / PIECE_STEP % 64); }

static void shard_drop_block(struct shard *shard, struct entry *block) {
    free(block->pieces);
    table_remove(&shard->blocks, block);
}

/* Removes what lives at the address; false if nothing does. */
static bool shard_take(struct shard *shard, uint64_t address, struct vgpu_block *taken) {
    struct entry *found = find_block(shard, address);
    if (found && address % PIECE_STEP == 0 && *word_of(found, address) & bit_of(address)) {
        *taken = (struct vgpu_block){address, 0, found->owner, (uint16_t)found->device, 1};
        *word_of(found, address) &= ~bit_of(address);
        found->count--;
        found->leaving++;
        return true;
    }
    found = address ? table_find(&shard->pointers, address) : NULL;
    if (!found) return false;
    *taken = (struct vgpu_block){address, found->charge, found->owner, (uint16_t)found->device, 0};
    table_remove(&shard->pointers, found);
    return true;
}

/* The block that a piece was taken from; NULL: it went with its context. */
static struct entry *block_left(const struct shard *shard, const struct vgpu_block *piece) {
    struct entry *found = find_block(shard, piece->address);
    return found && found->leaving && (!piece->owner || found->owner == piece->owner) ? found
                                                                                      : NULL;
}

static uint64_t shard_left(struct shard *shard, const struct vgpu_block *piece) {
    struct entry *found = block_left(shard, piece);
    if (!found || --found->leaving || found->count) return 0;
    shard_drop_block(shard, found);
    return VGPU_BLOCK_BYTES;
}

/* The put functions return what of the charge is not needed. Without host memory for an entry the
 * charge stays until the process ends: on the safe side. */
static uint64_t shard_put_pointer(struct shard *shard, const struct vgpu_block *block) {
    struct entry *entry = table_add(&shard->pointers, block->address);
    if (!entry) return 0;
    entry->charge = block->charge;
    entry->owner = block->owner;
    entry->device = block->device & 31U;
    return 0;
}

/* Contexts do not share blocks: of two the later one (the larger serial) has it, and the other is
 * dying. Owner 0 is a context not yet known: the same one. */
static uint64_t shard_put_piece(struct shard *shard, const struct vgpu_block *piece) {
    uint64_t unneeded = 0;
    struct entry *block = find_block(shard, piece->address);
    if (block && block->owner && piece->owner && block->owner != piece->owner) {
        if (piece->owner < block->owner) return piece->charge;
        shard_drop_block(shard, block);
        block = NULL;
        unneeded = VGPU_BLOCK_BYTES;
    }
    if (block) {
        unneeded = piece->charge;
    } else {
        uint64_t *pieces = calloc(PIECE_WORDS, sizeof *pieces);
        if (!pieces) return unneeded;
        block = table_add(&shard->blocks, piece->address / VGPU_BLOCK_BYTES + 1);
        if (!block) return free(pieces), unneeded;
        block->pieces = pieces;
        block->device = piece->device & 31U;
    }
    if (piece->owner) block->owner = piece->owner;
    *word_of(block, piece->address) |= bit_of(piece->address);
    block->count++;
    return unneeded;
}

uint64_t vgpu_blocks_put(const struct vgpu_block *block) {
    struct shard *shard = shard_of(block->address);
    /* At no such step a piece cannot be told from its neighbours: it keeps a charge of its own. */
    bool is_piece = block->piece && block->address % PIECE_STEP == 0;
    struct vgpu_block stale;
    uint64_t unneeded = 0;
    pthread_mutex_lock(&shard->lock);
    if (shard_take(shard, block->address, &stale))
        unneeded += stale.piece ? shard_left(shard, &stale) : stale.charge;
    unneeded += is_piece ? shard_put_piece(shard, block) : shard_put_pointer(shard, block);
    pthread_mutex_unlock(&shard->lock);
    return unneeded;
}

bool vgpu_blocks_take(uint64_t address, struct vgpu_block *block) {
    struct shard *shard = shard_of(address);
    pthread_mutex_lock(&shard->lock);
    bool is_known = shard_take(shard, address, block);
    pthread_mutex_unlock(&shard->lock);
    return is_known;
}

uint64_t vgpu_blocks_left(const struct vgpu_block *block) {
    if (!block->piece) return block->charge;
    struct shard *shard = shard_of(block->address);
    pthread_mutex_lock(&shard->lock);
    uint64_t bytes = shard_left(shard, block);
    pthread_mutex_unlock(&shard->lock);
    return bytes;
}

uint64_t vgpu_blocks_return(const struct vgpu_block *block) {
    if (!block->piece) return vgpu_blocks_put(block);
    struct shard *shard = shard_of(block->address);
    pthread_mutex_lock(&shard->lock);
    struct entry *found = block_left(shard, block);
    if (found) {
        found->leaving--;
        found->count++;
        *word_of(found, block->address) |= bit_of(block->address);
    }
    pthread_mutex_unlock(&shard->lock);
    return 0; /* without its block it has gone with its context */
}

/* Removing shifts another entry into the place: it is looked at again. */
static void shard_drop_owner(struct shard *shard, uint32_t owner, uint64_t *bytes) {
    for (uint64_t i = 0; i < shard->pointers.size;) {
        struct entry *entry = &shard->pointers.entries[i];
        if (!entry->key || entry->owner != owner) {
            i++;
            continue;
        }
        bytes[entry->device] += entry->charge;
        table_remove(&shard->pointers, entry);
    }
    for (uint64_t i = 0; i < shard->blocks.size;) {
        struct entry *block = &shard->blocks.entries[i];
        if (!block->key || block->owner != owner) {
            i++;
            continue;
        }
        bytes[block->device] += VGPU_BLOCK_BYTES;
        shard_drop_block(shard, block);
    }
}

void vgpu_blocks_drop_owner(uint32_t owner, uint64_t *bytes) {
    for (int i = 0; i < SHARDS; i++) {
        pthread_mutex_lock(&shards[i].lock);
        shard_drop_owner(&shards[i], owner, bytes);
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
        for (uint64_t k = 0; k < shards[i].blocks.size; k++)
            if (shards[i].blocks.entries[k].key) count += shards[i].blocks.entries[k].count;
        pthread_mutex_unlock(&shards[i].lock);
    }
    return count;
}
