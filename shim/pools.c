#include "pools.h"

#include <pthread.h>
#include <string.h>

#include "atomics.h"
#include "capture.h"
#include "charge.h"
#include "interpose.h"

#define POOLS 256
#define GROWTH_STEP (UINT64_C(32) << 20) /* pools grow in such steps (measured on an H200) */

/* A pool's figure is read without any lock; the reading that was begun last wins, so that a slow
 * reader cannot bring back an older figure. Places are found without the lock, too: the handle is
 * published last, and nobody uses a pool that he destroys. */
struct pool {
    CUmemoryPool handle;         /* NULL = free place */
    struct vgpu_account account; /* region NULL: not on a device, not charged */
    uint64_t charged;
    uint64_t begun, applied; /* tickets of readings */
    bool destroyed;          /* by the program; `left` bytes of it are still live */
    uint64_t left;
};

uint64_t vgpu_pools_frees;

static struct pool pools[POOLS];
static uint32_t pools_used; /* high-water mark */
static uint32_t orphans;    /* destroyed pools with live blocks */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void forget_in_child(void) {
    pthread_mutex_init(&lock, NULL);
    memset(pools, 0, sizeof pools);
    pools_used = 0;
    orphans = 0;
    vgpu_pools_frees = 0;
}

__attribute__((constructor)) static void register_fork(void) {
    vgpu_session_on_fork(forget_in_child);
}

static struct pool *find_locked(CUmemoryPool handle, bool destroyed) {
    for (uint32_t i = 0; i < pools_used; i++)
        if (pools[i].handle == handle && pools[i].destroyed == destroyed) return &pools[i];
    return NULL;
}

static struct pool *enter_locked(CUmemoryPool handle, const struct vgpu_account *account) {
    struct pool *free_place = find_locked(NULL, false);
    if (!free_place && pools_used < POOLS) {
        free_place = &pools[pools_used];
        vgpu_store_release(&pools_used, pools_used + 1);
    }
    if (!free_place) return NULL;
    *free_place = (struct pool){.account = *account};
    vgpu_store_release(&free_place->handle, handle);
    return free_place;
}

/* The calling thread's capture mode is moved out of the way of our own calls only while somebody
 * captures. */
static bool relax(CUstreamCaptureMode *mode) {
    *mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    return vgpu_capture_is_open() && CALL(cuThreadExchangeStreamCaptureMode)(mode) == CUDA_SUCCESS;
}

static void restore(bool relaxed, CUstreamCaptureMode *mode) {
    if (relaxed) CALL(cuThreadExchangeStreamCaptureMode)(mode);
}

/* An attribute of a pool, read so that no capture in this or another thread is disturbed. */
static bool read_attribute(CUmemoryPool pool, CUmemPool_attribute attribute, uint64_t *value) {
    CUstreamCaptureMode mode;
    bool relaxed = relax(&mode);
    cuuint64_t answer = 0;
    CUresult rc = CALL(cuMemPoolGetAttribute)(pool, attribute, &answer);
    restore(relaxed, &mode);
    *value = answer;
    return rc == CUDA_SUCCESS;
}

/* Reads RESERVED and replaces the pool's charge and the guess `reserved` by it, in one step so that
 * the session's sum never shows both or neither. */
static void settle(struct pool *pool, CUmemoryPool handle, const struct vgpu_account *account,
                   uint64_t guess) {
    uint64_t reserved = 0, ticket = vgpu_add_acq_rel(&pool->begun, UINT64_C(1)) + 1;
    int64_t change = -(int64_t)guess;
    bool known = read_attribute(handle, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &reserved);
    pthread_mutex_lock(&lock);
    if (known && pool->handle == handle && !pool->destroyed && ticket > pool->applied &&
        ticket <= vgpu_load_relaxed(&pool->begun)) {
        change += (int64_t)(reserved - pool->charged);
        vgpu_store_relaxed(&pool->charged, reserved);
        pool->applied = ticket;
    }
    if (change) vgpu_ledger_adjust(account, change);
    pthread_mutex_unlock(&lock);
}

/* Corrects one pool. True if more may leave it at a later synchronisation: a free that its stream
 * has not reached yet, of a pool above its release threshold. */
static bool refresh_one(struct pool *pool) {
    pthread_mutex_lock(&lock);
    CUmemoryPool handle = pool->destroyed || !pool->account.region ? NULL : pool->handle;
    struct vgpu_account account = pool->account;
    pthread_mutex_unlock(&lock);
    if (!handle) return false;
    settle(pool, handle, &account, 0);
    uint64_t threshold = 0, held = vgpu_load_relaxed(&pool->charged);
    return held && read_attribute(handle, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold) &&
           held > threshold;
}

void vgpu_pools_refresh(void) {
    uint64_t frees = vgpu_load_acquire(&vgpu_pools_frees);
    uint32_t count = vgpu_load_acquire(&pools_used);
    bool more = false;
    for (uint32_t i = 0; i < count; i++) more |= refresh_one(&pools[i]);
    if (more && !frees) vgpu_pools_mark_dirty(); /* freed by a call that did not say so */
    /* Clean only if nothing was freed meanwhile. */
    if (!more) vgpu_cas_acq_rel(&vgpu_pools_frees, &frees, UINT64_C(0));
}

void vgpu_pools_enter(CUmemoryPool handle, const struct vgpu_place *place) {
    const struct vgpu_account nowhere = {0};
    pthread_mutex_lock(&lock);
    if (!find_locked(handle, false)) enter_locked(handle, place ? &place->account : &nowhere);
    pthread_mutex_unlock(&lock);
}

CUresult vgpu_pools_end(CUmemoryPool handle, CUresult (*end)(CUmemoryPool)) {
    uint64_t used = 0;
    pthread_mutex_lock(&lock);
    struct pool *pool = find_locked(handle, false);
    /* Marked first: the handle may be given to a new pool before end() returns. */
    if (pool) pool->destroyed = true;
    pthread_mutex_unlock(&lock);
    if (!pool) return end(handle);
    read_attribute(handle, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used);
    CUresult rc = end(handle);
    pthread_mutex_lock(&lock);
    if (rc != CUDA_SUCCESS) {
        pool->destroyed = false;
    } else if (used == 0) {
        if (pool->account.region) vgpu_ledger_refund(&pool->account, pool->charged);
        *pool = (struct pool){0};
    } else {
        pool->left = used;
        orphans++;
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

struct vgpu_orphan vgpu_pools_before_free(CUdeviceptr address) {
    struct vgpu_orphan orphan = {0};
    if (!vgpu_load_relaxed(&orphans)) return orphan;
    size_t bytes = 0;
    CUstreamCaptureMode mode;
    bool relaxed = relax(&mode);
    if (CALL(cuPointerGetAttribute)(&orphan.pool, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, address) !=
            CUDA_SUCCESS ||
        CALL(cuPointerGetAttribute)(&bytes, CU_POINTER_ATTRIBUTE_RANGE_SIZE, address) !=
            CUDA_SUCCESS)
        orphan.pool = NULL;
    restore(relaxed, &mode);
    orphan.bytes = bytes;
    return orphan;
}

void vgpu_pools_after_free(const struct vgpu_orphan *orphan) {
    if (!orphan->pool) return;
    pthread_mutex_lock(&lock);
    struct pool *pool = find_locked(orphan->pool, true);
    if (pool && pool->left <= orphan->bytes) {
        if (pool->account.region) vgpu_ledger_refund(&pool->account, pool->charged);
        *pool = (struct pool){0};
        orphans--;
    } else if (pool) {
        pool->left -= orphan->bytes;
    }
    pthread_mutex_unlock(&lock);
}

static uint64_t growth_of(uint64_t bytes) {
    uint64_t rounded = (bytes + GROWTH_STEP - 1) & ~(GROWTH_STEP - 1);
    return rounded < bytes ? UINT64_MAX : rounded;
}

/* What the pool must grow at least: nothing if the bytes fit into what it has to spare. */
static uint64_t least_growth(CUmemoryPool pool, uint64_t bytes) {
    uint64_t reserved, used;
    if (!read_attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &reserved) ||
        !read_attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used))
        return growth_of(bytes);
    uint64_t spare = reserved > used ? reserved - used : 0;
    return bytes > spare ? growth_of(bytes - spare) : 0;
}

/* A pool not seen before is entered with the caller's account. NULL: no place left. */
static struct pool *find_or_enter(CUmemoryPool handle, const struct vgpu_account *account) {
    uint32_t count = vgpu_load_acquire(&pools_used);
    for (uint32_t i = 0; i < count; i++)
        if (vgpu_load_acquire(&pools[i].handle) == handle &&
            !vgpu_load_relaxed(&pools[i].destroyed))
            return &pools[i];
    pthread_mutex_lock(&lock);
    struct pool *pool = find_locked(handle, false);
    if (!pool) pool = enter_locked(handle, account);
    pthread_mutex_unlock(&lock);
    return pool;
}

/* Something may be in flight on the stream: memory freed there can serve the next request although
 * neither a reading nor trimming shows it as free. */
static bool is_busy(const struct vgpu_pool_call *call) {
    CUstreamCaptureMode mode;
    bool relaxed = relax(&mode);
    CUresult rc = call->query(call->stream);
    restore(relaxed, &mode);
    return rc == CUDA_ERROR_NOT_READY;
}

/* Lets the pool give back what nothing lives in, up to `bytes`. */
static void trim(struct pool *pool, CUmemoryPool handle, const struct vgpu_account *account,
                 uint64_t bytes) {
    uint64_t reserved = 0;
    CUstreamCaptureMode mode;
    if (!read_attribute(handle, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &reserved)) return;
    bool relaxed = relax(&mode);
    REAL(cuMemPoolTrimTo)(handle, reserved > bytes ? reserved - bytes : 0);
    restore(relaxed, &mode);
    settle(pool, handle, account, 0);
}

CUresult vgpu_pools_alloc(const struct vgpu_place *place, const struct vgpu_pool_call *call) {
    struct vgpu_session *session = place->session;
    struct pool *pool = find_or_enter(call->pool, &place->account);
    struct pool unlisted; /* one of too many is charged during the call only */
    if (!pool) *(pool = &unlisted) = (struct pool){.account = place->account};
    struct vgpu_account account = pool->account;
    if (!account.region) return call->alloc(call);
    uint64_t guess = growth_of(call->bytes);
    struct vgpu_request request = {guess, call->bytes, 0, call->api};
    bool certain = vgpu_charge_try(session, &account, guess);
    if (!certain && call->bytes <= vgpu_account_limit(&account)) {
        /* What the pool keeps unused makes room for the greatest growth. Its figures would not tell
         * whether the request fits into that as it lies: the pool grows when it is in pieces. */
        trim(pool, call->pool, &account, guess);
        certain = vgpu_ledger_reserve(&account, guess);
    }
    if (!certain) {
        if (!is_busy(call))
            return vgpu_charge_deny(session, &account, &request, vgpu_ledger_refusal());
        request.bytes = guess = least_growth(call->pool, call->bytes);
        CUresult rc = vgpu_charge(session, &account, &request);
        if (rc != CUDA_SUCCESS) return rc;
    }
    CUresult rc = call->alloc(call);
    settle(pool, call->pool, &account, guess);
    if (rc != CUDA_SUCCESS || certain) return rc;
    if (vgpu_account_fits(&account)) return rc;
    struct vgpu_refusal refusal = vgpu_account_tightest(&account);
    /* What was freed in flight did not serve: the pool grew past the limit after all. */
    call->give_back(*call->out, call->stream);
    trim(pool, call->pool, &account, growth_of(call->bytes));
    vgpu_pools_mark_dirty();
    *call->out = 0;
    return vgpu_charge_deny(session, &account, &request, refusal);
}
