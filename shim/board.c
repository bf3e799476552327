#define _GNU_SOURCE
#include "board.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "atomics.h"
#include "wait.h"

#define ATTEMPTS 8 /* a sweeper may remove a board between our steps */
#define PATH_ROOM 320

static void write_path(char path[PATH_ROOM], const char *directory, const uint8_t uuid[16]) {
    int at = snprintf(path, PATH_ROOM - 64, "%s/board-GPU-", directory);
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) path[at++] = '-';
        at += snprintf(path + at, 3, "%02x", uuid[i]);
    }
}

static struct vgpu_board *map(int fd) {
    void *mapped = mmap(NULL, sizeof(struct vgpu_board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return mapped == MAP_FAILED ? NULL : mapped;
}

/* Makes a whole board under a name of our own, then gives it its name. Not having got the name is
 * no error: somebody was faster. Returns 0 or the error. */
static int make(const char *path, const uint8_t uuid[16]) {
    char own[PATH_ROOM + 16];
    snprintf(own, sizeof own, "%s.%d.new", path, (int)getpid());
    unlink(own); /* of a dead process with our pid */
    int fd = open(own, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return errno;
    /* Real memory now: a full /dev/shm is an error here, and no SIGBUS later. */
    int error = posix_fallocate(fd, 0, sizeof(struct vgpu_board));
    struct vgpu_board *board = error ? NULL : map(fd);
    if (!error && !board) error = errno;
    if (board) {
        memcpy(board->header.uuid, uuid, 16);
        board->header.board_version = VGPU_BOARD_VERSION;
        board->header.board_bytes = sizeof *board;
        board->header.start_mono_ns = vgpu_now_ns();
        vgpu_store_release(&board->header.magic, VGPU_BOARD_MAGIC);
        munmap(board, sizeof *board);
        if (link(own, path) != 0 && errno != EEXIST && errno != ENOENT) error = errno;
    }
    close(fd);
    unlink(own);
    return error;
}

/* The descriptor stays open, out of the numbers that programs expect: its shared lock tells
 * sweepers that the board is in use. -1: errno, or ESTALE if it was being removed. */
static int open_locked(const char *path) {
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return -1;
    int high = fcntl(fd, F_DUPFD_CLOEXEC, 200);
    if (high >= 0) {
        close(fd);
        fd = high;
    }
    struct stat info;
    if (flock(fd, LOCK_SH | LOCK_NB) == 0 && fstat(fd, &info) == 0 && info.st_nlink > 0) return fd;
    close(fd);
    errno = ESTALE;
    return -1;
}

static bool is_good(const struct vgpu_board *board, const uint8_t uuid[16]) {
    return vgpu_load_acquire(&board->header.magic) == VGPU_BOARD_MAGIC &&
           board->header.board_version == VGPU_BOARD_VERSION &&
           board->header.board_bytes == sizeof *board && memcmp(board->header.uuid, uuid, 16) == 0;
}

static struct vgpu_board *map_checked(int fd, const uint8_t uuid[16], const char **why) {
    struct stat info;
    if (fstat(fd, &info) != 0 || info.st_uid != getuid() ||
        info.st_size != (off_t)sizeof(struct vgpu_board)) {
        *why = "the board is another user's or of another version of vgpu";
        return NULL;
    }
    struct vgpu_board *board = map(fd);
    if (board && is_good(board, uuid)) return board;
    if (board) munmap(board, sizeof *board);
    *why = "the board was made by another version of vgpu";
    return NULL;
}

struct vgpu_board *vgpu_board_open(const char *directory, const uint8_t uuid[16],
                                   const char **why) {
    char path[PATH_ROOM];
    *why = "no board directory";
    if (!*directory || strlen(directory) > PATH_ROOM - 128) return NULL;
    write_path(path, directory, uuid);
    int saved = errno;
    struct vgpu_board *board = NULL;
    for (int i = 0; i < ATTEMPTS; i++) {
        int fd = open_locked(path);
        if (fd >= 0) {
            board = map_checked(fd, uuid, why);
            if (!board) close(fd);
            break;
        }
        int error = errno == ENOENT ? make(path, uuid) : errno;
        if (error && error != ESTALE && error != EEXIST) {
            *why = strerror(error);
            break;
        }
        *why = "it is removed again and again";
        sched_yield();
    }
    errno = saved;
    return board;
}

void vgpu_board_changed(struct vgpu_board *board) {
    vgpu_add_seq_cst(&board->header.changes, 1U);
    vgpu_wake_word(&board->turn.turn_bell, VGPU_ALL_EARS);
}
