// Written by shim/layout.c from shim/region.h and shim/board.h; never edited.

export const MAGIC = 0x6e6f697567707631n;
export const LAYOUT_VERSION = 5;
export const OUTER_BYTES = 128;
export const MAX_DEPTH = 4;
export const MAX_DEVICES = 16;
export const MAX_SLOTS = 512;
export const RING_RECORDS = 2048;
export const NO_LIMIT = 0xffffffffffffffffn;
export const WHOLE_GPU = 1000000; // parts per million
export const PRESSURE_SOFT = 0x100;
export const NO_DEVICE = 0xffffffff;

export const DEVICE = { EMPTY: 0, CLAIMING: 1, READY: 2 } as const;
export const SLOT = { FREE: 0, CLAIMING: 1, LIVE: 2, DYING: 3 } as const;
export const MAX_GROUPS = 256;
export const MODE = { TIME: 0, SPATIAL: 1 } as const;
export const THROTTLE = { ADAPTIVE: 0, COOPERATIVE: 1, STRICT: 2 } as const;
export const CLASS = { DEFAULT: 0, ATTENTION: 1, FFN: 2, COPY: 3 } as const;
export const COPY = { H2D: 0, D2H: 1, D2D: 2 } as const;
export const BOARD_MAGIC = 0x6472616f62706776n;
export const BOARD_VERSION = 1;
export const MAX_SEATS = 64;
export const BOARD_MODE = { UNSET: 0, TIME: 1, SPATIAL: 2 } as const;
export const GANG = { AUTO: 0, ON: 1, OFF: 2 } as const;

/** Byte offsets in `struct vgpu_header`. */
export const header = {
  bytes: 576,
  magic: 0,
  layout_version: 8,
  region_bytes: 12,
  start_mono_ns: 16,
  start_wall_ns: 24,
  session: 32,
  supervisor_pid: 48,
  limits_version: 52,
  supervisor_start: 56,
  default_mem_limit: 64,
  default_share_ppm: 72,
  audit: 76,
  default_context_bytes: 80,
  bell_wanted: 88,
  slots_used: 92,
  audit_wanted: 96,
  audit_done: 100,
  default_soft_bytes: 104,
  throttle: 112,
  weight_ppm: 116,
  quantum_us: 120,
  dampening_ppm: 124,
  class_weight_ppm: 128,
  copy_bytes_per_s: 144,
  default_burst_ppm: 168,
  gang: 172,
  board_dir: 176,
  mps: 336,
  header_spare: 340,
  outer: 344,
  audit_ns: 472,
  gang_members: 480,
  header_pad: 488,
  ring_head: 512,
  ring_lost: 520,
  unknown_calls: 528,
  ring_pad: 536,
} as const;

/** Byte offsets in `struct vgpu_device`. */
export const device = {
  bytes: 320,
  state: 0,
  share_ppm: 4,
  uuid: 8,
  mem_limit: 24,
  total_bytes: 32,
  context_bytes: 40,
  peak_bytes: 48,
  denials: 56,
  charged_ns: 64,
  slices: 72,
  soft_bytes: 80,
  pressure_next_bytes: 88,
  pressure: 96,
  pressure_changes: 100,
  velocity: 104,
  pressure_crossed: 112,
  burst_ppm: 116,
  gang_turn: 120,
  copy_paid_ns: 128,
  copied_bytes: 152,
  copy_waited_ns: 176,
  copy_waits: 184,
  mode: 192,
  sm_count: 196,
  sm_total: 200,
  group_sms: 204,
  sm_groups: 208,
  enclosed: 240,
  spatial_pad32: 244,
  spatial_pad: 248,
  gate_word: 256,
  gate_base: 264,
  gate_bell: 280,
  gate_closing: 284,
  gate_wanted: 288,
  board_seat: 292,
  gate_burst: 296,
  gate_burst_epoch: 304,
  gang_word: 312,
} as const;

/** Byte offsets in `struct vgpu_use`. */
export const use = {
  bytes: 128,
  charged_bytes: 0,
  drift_bytes: 8,
  peak_bytes: 16,
  allocations: 24,
  denials: 32,
  launches: 40,
  busy_ns: 48,
  throttled_ns: 56,
  waits: 64,
  gate_busy: 72,
  gate_drained_ns: 80,
  gate_seen_ns: 88,
  gate_wants_ns: 96,
  velocity: 104,
  managed_bytes: 112,
  use_pad: 120,
} as const;

/** Byte offsets in `struct vgpu_slot`. */
export const slot = {
  bytes: 2112,
  owner: 0,
  start_time: 8,
  name: 16,
  attach_mono_ns: 32,
  slot_pad: 40,
  use: 64,
} as const;

/** Byte offsets in `struct vgpu_record`. */
export const record = {
  bytes: 128,
  turn: 0,
  mono_ns: 8,
  kind: 16,
  pid: 20,
  device: 24,
  check: 28,
  api: 32,
  value: 72,
  name: 112,
} as const;

/** Byte offsets in `struct vgpu_region`. */
export const region = {
  bytes: 1349184,
  header: 0,
  devices: 576,
  slots: 5696,
  ring: 1087040,
} as const;

/** Byte offsets in `struct vgpu_board_header`. */
export const board_header = {
  bytes: 256,
  magic: 0,
  board_version: 8,
  board_bytes: 12,
  uuid: 16,
  start_mono_ns: 32,
  changes: 40,
  mode: 44,
  sm_count: 48,
  group_sms: 52,
  groups_total: 56,
  seats_used: 60,
  board_spare: 64,
} as const;

/** Byte offsets in `struct vgpu_turn`. */
export const turn = {
  bytes: 64,
  turn_word: 0,
  turn_wanted: 8,
  turn_v: 16,
  turn_bell: 24,
  turn_overlap_pid: 28,
  turn_drained_ns: 32,
  turn_overlap_ns: 40,
  turn_overlap_end_ns: 48,
  turn_overlap_seat: 56,
} as const;

/** Byte offsets in `struct vgpu_seat`. */
export const seat = {
  bytes: 576,
  owner: 0,
  session: 8,
  region: 24,
  supervisor_start: 280,
  supervisor_pid: 288,
  device: 292,
  share_ppm: 296,
  burst_ppm: 300,
  weight_ppm: 304,
  throttle: 308,
  mem_promise: 312,
  group_count: 320,
  group_spare: 324,
  groups: 328,
  seat_spare: 360,
  turn_v: 448,
  wants_ns: 456,
  active_ns: 464,
  holder: 472,
  holder_start: 480,
  seen_ns: 488,
  turns: 496,
  stolen: 504,
  waited_ns: 512,
  bursting: 520,
  frees_ns: 528,
  seat_pad: 536,
} as const;

/** Byte offsets in `struct vgpu_board`. */
export const board = {
  bytes: 37184,
  header: 0,
  turn: 256,
  seats: 320,
} as const;

/** What the shim reports; `values` names the words of a record in order. */
export const events = [
  {
    kind: 0,
    name: "process.attach",
    values: [],
  },
  {
    kind: 1,
    name: "process.exit",
    values: [],
  },
  {
    kind: 2,
    name: "memory.denied",
    values: ["asked_bytes", "used_bytes", "limit_bytes", "context_bytes"],
  },
  {
    kind: 3,
    name: "memory.unknown",
    values: [],
  },
  {
    kind: 4,
    name: "memory.drift",
    values: ["ledger_bytes", "nvml_bytes"],
  },
  {
    kind: 5,
    name: "compute.stolen",
    values: ["epoch", "overdue_ns", "victim_pid"],
  },
  {
    kind: 6,
    name: "limit.changed",
    values: ["limit_bytes", "share_ppm"],
  },
] as const;
