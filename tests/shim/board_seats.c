/* A board is made whole by whoever comes first, sessions get seats of their own, processes of one
 * session share one, the seats of the dead come back, and kills at any moment spoil nothing.
 * Sources: shim/ring.c shim/board.c shim/slot.c shim/wait.c. */
#include "memory_check.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>

#include "../../shim/atomics.h"
/* Not a forked child of our session but a process of another: it must not inherit our place. */
#include "../../shim/seat.c"
#include "../../shim/slot.h"
#include "../../shim/wait.h"

#define KILLS 300

static char directory[64];
static int failures;

void vgpu_session_on_fork(void (*forget)(void)) { (void)forget; }

static void expect(bool good, const char *name, long got) {
    printf("%s %s (%ld)\n", good ? "ok" : "not ok", name, got);
    failures += !good;
}

/* A session named by a letter, with a region file that this process holds the lock on. */
static struct vgpu_session *enter(char letter) {
    static struct vgpu_session session;
    snprintf(session.region_path, sizeof session.region_path, "%s/region-%c", directory, letter);
    int fd = open(session.region_path, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || ftruncate(fd, sizeof *session.region) != 0 || flock(fd, LOCK_SH) != 0) abort();
    session.region = mmap(NULL, sizeof *session.region, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    region_fill(session.region, VGPU_NO_LIMIT);
    session.region->header.session[0] = letter;
    strcpy(session.region->header.board_dir, directory);
    session.region->devices[0].state = VGPU_DEVICE_READY;
    session.region->devices[0].uuid[0] = 7;
    session.pid = (uint32_t)getpid();
    return &session;
}

/* Forks a member of a session that says its seat + 1 (200: refused) and stays until it is killed.
 */
static pid_t member(char letter, int *seat) {
    int fds[2];
    if (pipe(fds) != 0) abort();
    pid_t pid = fork();
    if (pid == 0) {
        struct vgpu_place_on_board place;
        memset(places, 0, sizeof places);
        bool taken = vgpu_seat_take(enter(letter), 0, &place);
        uint8_t answer = taken ? (uint8_t)(place.seat + 1) : 200;
        if (write(fds[1], &answer, 1) != 1) _exit(1);
        for (;;) pause();
    }
    uint8_t answer = 0;
    close(fds[1]);
    if (seat && read(fds[0], &answer, 1) != 1) answer = 0;
    if (seat) *seat = answer;
    close(fds[0]);
    return pid;
}

static void end(pid_t pid) {
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static int live_seats(const struct vgpu_board *board) {
    int live = 0;
    for (int i = 0; i < VGPU_MAX_SEATS; i++)
        live += vgpu_slot_state(board->seats[i].owner) != VGPU_SLOT_FREE;
    return live;
}

int main(void) {
    snprintf(directory, sizeof directory, "/tmp/vgpu-board-XXXXXX");
    if (!mkdtemp(directory)) return 1;

    pid_t pids[8];
    for (int i = 0; i < 8; i++) pids[i] = member('a', NULL); /* at once: they race */
    usleep(100000);
    struct vgpu_session *ours = enter('z');
    struct vgpu_place_on_board place = {0};
    expect(vgpu_seat_take(ours, 0, &place), "a seat is to be had", (long)place.seat);
    expect(live_seats(place.board) == 2, "eight processes of a session share a seat",
           live_seats(place.board));
    expect(vgpu_seat_has_company(&place), "a session sees that it is not alone", 1);

    uint32_t version = vgpu_load_acquire(&ours->region->header.limits_version);
    int seat_b = 0, seat_c = 0;
    pid_t b = member('b', &seat_b), c = member('c', &seat_c);
    expect(seat_b > 0 && seat_c > 0 && seat_b != seat_c, "other sessions get seats of their own",
           seat_b * 100 + seat_c);
    expect(vgpu_load_acquire(&ours->region->header.limits_version) - version == 2,
           "each newcomer tells those who are there", 2);

    expect(vgpu_seat_reap(&place) == 0, "the living keep their seats", 0);
    end(b);
    expect(vgpu_seat_reap(&place) == 1, "a dead session's seat is freed", 1);
    for (int i = 0; i < 7; i++) end(pids[i]);
    expect(vgpu_seat_reap(&place) == 0, "a session lives in its last process", 0);
    end(pids[7]);
    end(c);
    expect(vgpu_seat_reap(&place) == 2, "and dies with it", 2);
    expect(!vgpu_seat_has_company(&place), "alone again", 0);
    expect(vgpu_load_acquire(&ours->region->header.limits_version) - version == 4,
           "those who remain are told", 4);

    const char *why;
    int refused = 0;
    for (int i = 0; i < KILLS; i++) {
        /* Every fourth round the board itself has to be made anew. */
        if (i % 4 == 0) {
            char path[128];
            snprintf(path, sizeof path, "%s/board-GPU-07000000-0000-0000-0000-000000000000",
                     directory);
            unlink(path);
        }
        for (int k = 0; k < 3; k++) pids[k] = member((char)('d' + k), NULL);
        usleep((unsigned)random_below(2500));
        for (int k = 0; k < 3; k++) end(pids[k]);
        int seat = 0;
        pid_t next = member('g', &seat);
        refused += seat == 0 || seat == 200;
        end(next);
    }
    expect(refused == 0, "after kills at any moment: sessions that got no seat", refused);
    struct vgpu_board *board = vgpu_board_open(directory, ours->region->devices[0].uuid, &why);
    struct vgpu_place_on_board fresh = {.board = board};
    vgpu_seat_reap(&fresh);
    expect(board && live_seats(board) == 0, "and no seat is lost", board ? live_seats(board) : -1);

    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command) != 0 || failures != 0;
}
