/* Writes a region file for tests that preload the shim without the supervisor:
 *     make_region PATH [mem_bytes|none] [share_ppm] [context_bytes] [board directory]
 * or shows one:
 *     make_region show PATH
 * or changes a limit of a living session, for all its devices:
 *     make_region set PATH share_ppm|burst_ppm|throttle|weight_ppm|quantum_us|mem_limit NUMBER
 * or shows who sits on a board: share, turns taken and lost of each seat:
 *     make_region board PATH */
#include "memory_check.h"

#include <fcntl.h>

#include "../../shim/atomics.h"
#include "../../shim/board.h"
#include "../../shim/slot.h"

static int show(const char *path) {
    int fd = open(path, O_RDONLY);
    struct vgpu_region *region = mmap(NULL, sizeof *region, PROT_READ, MAP_SHARED, fd, 0);
    if (fd < 0 || region == MAP_FAILED) return 1;
    for (uint32_t d = 0; d < VGPU_MAX_DEVICES; d++) {
        const struct vgpu_device *device = &region->devices[d];
        if (device->state == VGPU_DEVICE_EMPTY) continue;
        printf("device %u state %u limit %llu total %llu peak %llu denials %llu\n", d,
               device->state, (unsigned long long)device->mem_limit,
               (unsigned long long)device->total_bytes, (unsigned long long)device->peak_bytes,
               (unsigned long long)device->denials);
        for (uint32_t s = 0; s < region->header.slots_used; s++)
            if (vgpu_slot_state(region->slots[s].owner))
                printf("  slot %u pid %u %s charged %lld allocations %llu\n", s,
                       vgpu_slot_pid(region->slots[s].owner), region->slots[s].name,
                       (long long)region->slots[s].use[d].charged_bytes,
                       (unsigned long long)region->slots[s].use[d].allocations);
    }
    return 0;
}

static int show_board(const char *path) {
    int fd = open(path, O_RDONLY);
    struct vgpu_board *board = mmap(NULL, sizeof *board, PROT_READ, MAP_SHARED, fd, 0);
    if (fd < 0 || board == MAP_FAILED) return 1;
    for (uint32_t i = 0; i < board->header.seats_used; i++) {
        const struct vgpu_seat *seat = &board->seats[i];
        if (vgpu_slot_state(seat->owner) == VGPU_SLOT_LIVE)
            printf("seat %s share %u turns %llu stolen %llu\n", seat->region, seat->share_ppm,
                   (unsigned long long)seat->turns, (unsigned long long)seat->stolen);
    }
    return 0;
}

static int set(const char *path, const char *field, uint64_t value) {
    int fd = open(path, O_RDWR);
    struct vgpu_region *region =
        mmap(NULL, sizeof *region, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd < 0 || region == MAP_FAILED) return 1;
    struct vgpu_header *header = &region->header;
    uint32_t ppm = (uint32_t)value;
    if (!strcmp(field, "throttle")) vgpu_store_relaxed(&header->throttle, ppm);
    else if (!strcmp(field, "weight_ppm")) vgpu_store_relaxed(&header->weight_ppm, ppm);
    else if (!strcmp(field, "quantum_us")) vgpu_store_relaxed(&header->quantum_us, ppm);
    else if (!strcmp(field, "share_ppm")) vgpu_store_relaxed(&header->default_share_ppm, ppm);
    else if (!strcmp(field, "burst_ppm")) vgpu_store_relaxed(&header->default_burst_ppm, ppm);
    else if (!strcmp(field, "mem_limit")) vgpu_store_relaxed(&header->default_mem_limit, value);
    else return 2;
    for (int i = 0; i < VGPU_MAX_DEVICES; i++) {
        struct vgpu_device *device = &region->devices[i];
        if (vgpu_load_acquire(&device->state) != VGPU_DEVICE_READY) continue;
        if (!strcmp(field, "share_ppm")) vgpu_store_relaxed(&device->share_ppm, ppm);
        if (!strcmp(field, "burst_ppm")) vgpu_store_relaxed(&device->burst_ppm, ppm);
        if (!strcmp(field, "mem_limit")) vgpu_store_relaxed(&device->mem_limit, value);
    }
    vgpu_add_seq_cst(&header->limits_version, 1U);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    if (argc == 3 && strcmp(argv[1], "board") == 0) return show_board(argv[2]);
    if (argc == 5 && strcmp(argv[1], "set") == 0)
        return set(argv[2], argv[3], strtoull(argv[4], NULL, 0));
    if (argc == 3 && strcmp(argv[1], "show") == 0) return show(argv[2]);
    uint64_t limit = VGPU_NO_LIMIT;
    if (argc > 2 && strcmp(argv[2], "none") != 0) limit = strtoull(argv[2], NULL, 0);
    int fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(struct vgpu_region)) != 0) return 1;
    struct vgpu_region *region =
        mmap(NULL, sizeof *region, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (region == MAP_FAILED) return 1;
    region_fill(region, limit);
    if (argc > 3) region->header.default_share_ppm = (uint32_t)strtoul(argv[3], NULL, 0);
    if (argc > 4) region->header.default_context_bytes = strtoull(argv[4], NULL, 0);
    if (argc > 5) strncpy(region->header.board_dir, argv[5], sizeof region->header.board_dir - 1);
    return 0;
}
