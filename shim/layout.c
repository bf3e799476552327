/* Writes src/layout.gen.ts from the field lists of region.h and board.h:
 *     cc -std=gnu11 shim/layout.c -o layout && ./layout > src/layout.gen.ts
 * Offsets and sizes are the compiler's own, so TypeScript can never disagree with C. */
#include <inttypes.h>
#include <stdio.h>

#include "board.h"

#define SCALAR(type, name) printf("  " #name ": %zu,\n", offsetof(struct STRUCT, name));
#define ARRAY(type, name, count) SCALAR(type, name)

static void print_constants(void) {
    puts("// Written by shim/layout.c from shim/region.h and shim/board.h; never edited.");
    printf("\nexport const MAGIC = 0x%" PRIx64 "n;\n", (uint64_t)VGPU_MAGIC);
    printf("export const LAYOUT_VERSION = %u;\n", VGPU_LAYOUT_VERSION);
    printf("export const OUTER_BYTES = %zu;\n", sizeof((struct vgpu_header *)0)->outer);
    printf("export const MAX_DEPTH = %d;\n", VGPU_MAX_DEPTH);
    printf("export const MAX_DEVICES = %d;\n", VGPU_MAX_DEVICES);
    printf("export const MAX_SLOTS = %d;\n", VGPU_MAX_SLOTS);
    printf("export const RING_RECORDS = %d;\n", VGPU_RING_RECORDS);
    printf("export const NO_LIMIT = 0x%" PRIx64 "n;\n", (uint64_t)VGPU_NO_LIMIT);
    printf("export const WHOLE_GPU = %u; // parts per million\n", VGPU_WHOLE_GPU);
    printf("export const PRESSURE_SOFT = 0x%x;\n", VGPU_PRESSURE_SOFT);
    printf("export const NO_DEVICE = 0x%" PRIx32 ";\n", (uint32_t)VGPU_NO_DEVICE);

    printf("\nexport const DEVICE = { EMPTY: %d, CLAIMING: %d, READY: %d } as const;\n",
           VGPU_DEVICE_EMPTY, VGPU_DEVICE_CLAIMING, VGPU_DEVICE_READY);
    printf("export const SLOT = { FREE: %d, CLAIMING: %d, LIVE: %d, DYING: %d } as const;\n",
           VGPU_SLOT_FREE, VGPU_SLOT_CLAIMING, VGPU_SLOT_LIVE, VGPU_SLOT_DYING);
    printf("export const MAX_GROUPS = %d;\n", VGPU_MAX_GROUPS);
    printf("export const MODE = { TIME: %d, SPATIAL: %d } as const;\n", VGPU_MODE_TIME,
           VGPU_MODE_SPATIAL);
    printf("export const THROTTLE = { ADAPTIVE: %d, COOPERATIVE: %d, STRICT: %d } as const;\n",
           VGPU_THROTTLE_ADAPTIVE, VGPU_THROTTLE_COOPERATIVE, VGPU_THROTTLE_STRICT);
    printf("export const CLASS = { DEFAULT: %d, ATTENTION: %d, FFN: %d, COPY: %d } as const;\n",
           VGPU_CLASS_DEFAULT, VGPU_CLASS_ATTENTION, VGPU_CLASS_FFN, VGPU_CLASS_COPY);
    printf("export const COPY = { H2D: %d, D2H: %d, D2D: %d } as const;\n", VGPU_COPY_H2D,
           VGPU_COPY_D2H, VGPU_COPY_D2D);
    printf("export const BOARD_MAGIC = 0x%" PRIx64 "n;\n", (uint64_t)VGPU_BOARD_MAGIC);
    printf("export const BOARD_VERSION = %u;\n", VGPU_BOARD_VERSION);
    printf("export const MAX_SEATS = %d;\n", VGPU_MAX_SEATS);
    printf("export const BOARD_MODE = { UNSET: %d, TIME: %d, SPATIAL: %d } as const;\n",
           VGPU_BOARD_UNSET, VGPU_BOARD_TIME, VGPU_BOARD_SPATIAL);
    printf("export const GANG = { AUTO: %d, ON: %d, OFF: %d } as const;\n", VGPU_GANG_AUTO,
           VGPU_GANG_ON, VGPU_GANG_OFF);
}

/* One object of byte offsets from the start of the struct, with its size under `bytes`. */
static void open_struct(const char *name, size_t bytes) {
    printf("\n/** Byte offsets in `struct vgpu_%s`. */\n", name);
    printf("export const %s = {\n  bytes: %zu,\n", name, bytes);
}

static void print_structs(void) {
#define STRUCT vgpu_header
    open_struct("header", sizeof(struct STRUCT));
    VGPU_HEADER_FIELDS(SCALAR, ARRAY)
    puts("} as const;");
#undef STRUCT
#define STRUCT vgpu_device
    open_struct("device", sizeof(struct STRUCT));
    VGPU_DEVICE_FIELDS(SCALAR, ARRAY)
    puts("} as const;");
#undef STRUCT
#define STRUCT vgpu_use
    open_struct("use", sizeof(struct STRUCT));
    VGPU_USE_FIELDS(SCALAR, ARRAY)
    puts("} as const;");
#undef STRUCT
#define STRUCT vgpu_slot
    open_struct("slot", sizeof(struct STRUCT));
    VGPU_SLOT_FIELDS(SCALAR, ARRAY)
    printf("  use: %zu,\n", offsetof(struct STRUCT, use));
    puts("} as const;");
#undef STRUCT
#define STRUCT vgpu_record
    open_struct("record", sizeof(struct STRUCT));
    VGPU_RECORD_FIELDS(SCALAR, ARRAY)
    puts("} as const;");
#undef STRUCT
#define STRUCT vgpu_region
    open_struct("region", sizeof(struct STRUCT));
    printf("  header: %zu,\n", offsetof(struct STRUCT, header));
    printf("  devices: %zu,\n", offsetof(struct STRUCT, devices));
    printf("  slots: %zu,\n", offsetof(struct STRUCT, slots));
    printf("  ring: %zu,\n", offsetof(struct STRUCT, ring));
    puts("} as const;");
#undef STRUCT
}

static void print_board(void) {
#define STRUCT vgpu_board_header
    open_struct("board_header", sizeof(struct STRUCT));
    VGPU_BOARD_FIELDS(SCALAR, ARRAY)
    puts("} as const;");
#undef STRUCT
#define STRUCT vgpu_turn
    open_struct("turn", sizeof(struct STRUCT));
    VGPU_TURN_FIELDS(SCALAR, ARRAY)
    puts("} as const;");
#undef STRUCT
#define STRUCT vgpu_seat
    open_struct("seat", sizeof(struct STRUCT));
    VGPU_SEAT_FIELDS(SCALAR, ARRAY)
    puts("} as const;");
#undef STRUCT
#define STRUCT vgpu_board
    open_struct("board", sizeof(struct STRUCT));
    printf("  header: %zu,\n", offsetof(struct STRUCT, header));
    printf("  turn: %zu,\n", offsetof(struct STRUCT, turn));
    printf("  seats: %zu,\n", offsetof(struct STRUCT, seats));
    puts("} as const;");
#undef STRUCT
}

/* Trailing unused values are dropped, so that a name's index is its place in the record. */
static void print_event(unsigned kind, const char *name, const char *const values[5]) {
    int count = 5;
    while (count > 0 && values[count - 1][0] == '\0') count--;
    printf("  {\n    kind: %u,\n    name: \"%s\",\n    values: [", kind, name);
    for (int i = 0; i < count; i++) printf("%s\"%s\"", i ? ", " : "", values[i]);
    puts("],\n  },");
}

static void print_events(void) {
    puts("\n/** What the shim reports; `values` names the words of a record in order. */");
    puts("export const events = [");
#define EVENT(id, name, a, b, c, d, e)                                                             \
    print_event(VGPU_EVENT_##id, name, (const char *const[5]){a, b, c, d, e});
    VGPU_EVENTS(EVENT)
#undef EVENT
    puts("] as const;");
}

int main(void) {
    print_constants();
    print_structs();
    print_board();
    print_events();
    return 0;
}
