/* Samples NVML's process list of GPU 0 from outside, 2,000 times a second, and says for each
 * process tree that it was told of what the list came to. One sampler does for all trees of a
 * card: each look holds up the driver calls of everybody on it, so it keeps a pace. A look may take
 * longer than its period: LOOKERS threads take turns, and each look is a sample of its own.
 *
 * On stdin "watch PID LIMIT" (bytes; from now on), "tell PID" (prints one JSON line for that tree)
 * and "stop PID" (the same, and forgets it). Ends when stdin does.
 *
 * A process belongs to a tree if PID is among its ancestors, and goes on belonging to it when they
 * are gone: what the driver still holds for the dead counts. */
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "../../shim/nvml_abi.h"

#define TREES 256
#define KNOWN 8192
#define LISTED 512
#define PERIOD_NS 500000 /* between looks */
#define LOOKERS 3

/* Whose a process is, beside the number of a tree. */
enum {
    NOBODY = -1,
    UNSURE = -2, /* nobody's, but a tree has come since */
    GONE = -3,   /* of a tree that is no longer watched: the driver may take a while */
};

struct tree {
    unsigned root; /* 0: free */
    uint64_t limit, now, peak, samples, above, over_bytes;
    double begin, last, slowest, over_since, over_longest, looking; /* s */
};
static struct tree trees[TREES];

static struct {
    unsigned pid;
    int tree;
    uint64_t round; /* when it was last listed */
} known[KNOWN];
static int known_count;
static uint64_t rounds;
static uint64_t unplaced; /* most bytes of processes that /proc does not have */

/* Sleeps to the thread's next tick; what came too late is not made up for. */
static void keep_pace(struct timespec *next) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    next->tv_nsec += LOOKERS * PERIOD_NS;
    if (next->tv_nsec >= 1000000000) next->tv_sec++, next->tv_nsec -= 1000000000;
    if (next->tv_sec < now.tv_sec || (next->tv_sec == now.tv_sec && next->tv_nsec < now.tv_nsec))
        *next = now;
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, next, NULL);
}

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* 0: there is no such process. */
static unsigned parent_of(unsigned pid) {
    char path[32], text[512];
    unsigned parent = 0;
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[n] = 0;
    const char *end = strrchr(text, ')'); /* the name may hold anything */
    return end && sscanf(end + 1, " %*c %u", &parent) == 1 ? parent : 0;
}

static int find_tree(unsigned pid) {
    for (unsigned at = pid; at > 1; at = parent_of(at))
        for (int i = 0; i < TREES; i++)
            if (trees[i].root == at) return i;
    return NOBODY;
}

static int tree_of(unsigned pid, uint64_t bytes) {
    for (int i = 0; i < known_count; i++)
        if (known[i].pid == pid) {
            if (known[i].tree == UNSURE) known[i].tree = find_tree(pid);
            known[i].round = rounds;
            return known[i].tree;
        }
    if (parent_of(pid) == 0) {
        if (bytes > unplaced) unplaced = bytes;
        return NOBODY;
    }
    if (known_count == KNOWN) exit((fprintf(stderr, "sampler: too many processes\n"), 3));
    known[known_count].pid = pid;
    known[known_count].round = rounds;
    return known[known_count++].tree = find_tree(pid);
}

/* Those who were nobody's may be somebody's now; those of the tree that ends are nobody's. */
static void reconsider(int ended) {
    int kept = 0;
    for (int i = 0; i < known_count; i++) {
        if (known[i].tree == GONE && known[i].round + 1000 < rounds) continue;
        known[kept] = known[i];
        if (known[kept].tree == NOBODY) known[kept].tree = UNSURE;
        if (ended >= 0 && known[kept].tree == ended) known[kept].tree = GONE;
        kept++;
    }
    known_count = kept;
}

static void tell(const struct tree *tree) {
    double longest = tree->over_longest;
    if (tree->over_since > 0 && tree->last - tree->over_since > longest)
        longest = tree->last - tree->over_since;
    printf("{\"pid\":%u,\"peak_bytes\":%llu,\"left_bytes\":%llu,\"samples\":%llu,\"per_second\":"
           "%.0f,\"slowest_ms\":%.2f,\"look_us\":%.0f,\"above_limit\":%llu,\"over_bytes\":%llu,"
           "\"over_ms\":%.2f,"
           "\"unplaced_bytes\":%llu}\n",
           tree->root, (unsigned long long)tree->peak, (unsigned long long)tree->now,
           (unsigned long long)tree->samples,
           (double)tree->samples / (tree->last - tree->begin + 1e-9), tree->slowest * 1e3,
           tree->looking * 1e6 / ((double)tree->samples + 1e-9), (unsigned long long)tree->above,
           (unsigned long long)tree->over_bytes, longest * 1e3, (unsigned long long)unplaced);
    fflush(stdout);
}

static void obey(const char *line) {
    unsigned pid;
    unsigned long long limit;
    if (sscanf(line, "watch %u %llu", &pid, &limit) == 2) {
        for (int i = 0; i < TREES; i++)
            if (!trees[i].root) {
                double t = now_s();
                trees[i] = (struct tree){.root = pid, .limit = limit, .begin = t, .last = t};
                return reconsider(NOBODY);
            }
        exit((fprintf(stderr, "sampler: too many trees\n"), 3));
    }
    bool is_stop = sscanf(line, "stop %u", &pid) == 1;
    if (!is_stop && sscanf(line, "tell %u", &pid) != 1)
        exit((fprintf(stderr, "sampler: what is \"%s\"?\n", line), 2));
    for (int i = 0; i < TREES; i++)
        if (trees[i].root == pid) {
            tell(&trees[i]);
            if (!is_stop) return;
            trees[i].root = 0;
            return reconsider(i);
        }
    exit((fprintf(stderr, "sampler: %u is not watched\n", pid), 2));
}

static void note(struct tree *tree, double t) {
    bool is_over = tree->now > tree->limit;
    if (tree->now > tree->peak) tree->peak = tree->now;
    if (is_over && tree->now - tree->limit > tree->over_bytes)
        tree->over_bytes = tree->now - tree->limit;
    if (is_over && tree->over_since == 0) tree->over_since = t;
    if (!is_over && tree->over_since > 0) {
        if (t - tree->over_since > tree->over_longest) tree->over_longest = t - tree->over_since;
        tree->over_since = 0;
    }
    tree->above += is_over;
    tree->samples++;
    if (t - tree->last > tree->slowest) tree->slowest = t - tree->last;
    tree->last = t;
}

static pthread_mutex_t book = PTHREAD_MUTEX_INITIALIZER; /* all that the looks are entered into */

/* Until the end of input. */
static void obey_orders(void) {
    static char text[4096];
    size_t held = 0;
    for (ssize_t n; (n = read(0, text + held, sizeof text - 1 - held)) > 0;) {
        text[held += (size_t)n] = 0;
        char *line = text;
        pthread_mutex_lock(&book);
        for (char *end; (end = strchr(line, '\n')); line = end + 1) {
            *end = 0;
            obey(line);
        }
        pthread_mutex_unlock(&book);
        held -= (size_t)(line - text);
        memmove(text, line, held);
    }
}

static nvmlDevice_t device;
static typeof(&nvmlDeviceGetComputeRunningProcesses_v3) list;

static void enter(const nvmlProcessInfo_t *processes, unsigned count, double asked) {
    for (int i = 0; i < TREES; i++) trees[i].now = 0;
    for (unsigned i = 0; i < count; i++) {
        uint64_t bytes = processes[i].usedGpuMemory;
        if (bytes == NVML_VALUE_NOT_AVAILABLE)
            exit((fprintf(stderr, "sampler: NVML does not tell the bytes\n"), 3));
        int tree = tree_of(processes[i].pid, bytes);
        if (tree >= 0) trees[tree].now += bytes;
    }
    double t = now_s();
    rounds++;
    for (int i = 0; i < TREES; i++)
        if (trees[i].root) note(&trees[i], t), trees[i].looking += t - asked;
}

static void *look(void *number) {
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    next.tv_nsec += (long)(uintptr_t)number * PERIOD_NS;
    /* Beside a hundred busy threads, where we may: it sleeps most of the time. */
    prctl(PR_SET_TIMERSLACK, 1000UL);
    sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){.sched_priority = 1});
    for (;;) {
        nvmlProcessInfo_t processes[LISTED];
        unsigned count = LISTED;
        double asked = now_s();
        if (list(device, &count, processes))
            exit((fprintf(stderr, "sampler: process list failed\n"), 3));
        pthread_mutex_lock(&book);
        enter(processes, count, asked);
        pthread_mutex_unlock(&book);
        keep_pace(&next);
    }
    return NULL;
}

int main(void) {
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (!library) return fprintf(stderr, "sampler: %s\n", dlerror()), 2;
    typeof(&nvmlInit_v2) init = (typeof(&nvmlInit_v2))dlsym(library, "nvmlInit_v2");
    typeof(&nvmlDeviceGetHandleByIndex_v2) by_index =
        (typeof(&nvmlDeviceGetHandleByIndex_v2))dlsym(library, "nvmlDeviceGetHandleByIndex_v2");
    list = (typeof(&nvmlDeviceGetComputeRunningProcesses_v3))dlsym(
        library, "nvmlDeviceGetComputeRunningProcesses_v3");
    if (!init || !by_index || !list || init() || by_index(0, &device))
        return fprintf(stderr, "sampler: no NVML\n"), 2;
    for (uintptr_t i = 0; i < LOOKERS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, look, (void *)i))
            return fprintf(stderr, "sampler: no thread\n"), 2;
    }
    obey_orders();
    pthread_mutex_lock(&book); /* for good: nothing is entered any more */
    return 0;
}
