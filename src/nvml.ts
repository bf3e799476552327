import { dlopen, FFIType, type Pointer } from "bun:ffi";

/** A card as NVML shows it, in nvidia-smi's order. */
export interface Card {
  index: number;
  uuid: string;
  name: string;
  /** What cuDeviceTotalMem gives: without the driver's reserve. Bytes. */
  totalBytes: number;
}

/** What NVML lists for one process on one card. */
export interface CardUse {
  pid: number;
  bytes: number;
}

const { i32, u32, ptr } = FFIType;
const SIGNATURES = {
  nvmlInit_v2: { args: [], returns: i32 },
  nvmlShutdown: { args: [], returns: i32 },
  nvmlSystemGetDriverVersion: { args: [ptr, u32], returns: i32 },
  nvmlDeviceGetCount_v2: { args: [ptr], returns: i32 },
  nvmlDeviceGetHandleByIndex_v2: { args: [u32, ptr], returns: i32 },
  nvmlDeviceGetUUID: { args: [ptr, ptr, u32], returns: i32 },
  nvmlDeviceGetName: { args: [ptr, ptr, u32], returns: i32 },
  nvmlDeviceGetMemoryInfo_v2: { args: [ptr, ptr], returns: i32 },
  nvmlDeviceGetComputeRunningProcesses_v3: { args: [ptr, ptr, ptr], returns: i32 },
} as const;

const MEMORY_V2_BYTES = 40;
const MAX_PROCESSES = 1024;
const NOT_WRITTEN = 0xa5;
const NOT_AVAILABLE = 0xffff_ffff_ffff_ffffn;

/** NVML, initialised. Costs milliseconds and keeps the driver awake: open it only when a figure is needed. */
export class Nvml implements Disposable {
  readonly #library;
  readonly #handles = new Map<string, Pointer>();
  readonly #room = new Uint8Array(MAX_PROCESSES * 32);
  readonly cards: Card[] = [];

  /** Returns null where there is no NVML, or no driver behind it. `library` is a name for the loader or a path. */
  static open(library = "libnvidia-ml.so.1"): Nvml | null {
    try {
      return new Nvml(library);
    } catch {
      return null;
    }
  }

  private constructor(library: string) {
    this.#library = dlopen(library, SIGNATURES);
    const nvml = this.#library.symbols;
    if (nvml.nvmlInit_v2() !== 0) throw new Error("no driver");
    const count = new Uint32Array(1);
    nvml.nvmlDeviceGetCount_v2(count);
    for (let index = 0; index < count[0]!; index++) {
      const slot = new BigUint64Array(1);
      if (nvml.nvmlDeviceGetHandleByIndex_v2(index, slot) !== 0) continue;
      const handle = Number(slot[0]) as Pointer;
      const uuid = readText((text) => nvml.nvmlDeviceGetUUID(handle, text, text.length));
      const name = readText((text) => nvml.nvmlDeviceGetName(handle, text, text.length));
      this.#handles.set(uuid, handle);
      this.cards.push({ index, uuid, name, totalBytes: this.#readTotal(handle) });
    }
  }

  get driverVersion(): string {
    return readText((text) => this.#library.symbols.nvmlSystemGetDriverVersion(text, text.length));
  }

  /** Every process on the card with its memory, or null if NVML cannot tell now. */
  listUses(uuid: string): CardUse[] | null {
    const handle = this.#handles.get(uuid);
    if (handle === undefined) return null;
    const count = new Uint32Array([MAX_PROCESSES]);
    this.#room.fill(NOT_WRITTEN);
    if (
      this.#library.symbols.nvmlDeviceGetComputeRunningProcesses_v3(handle, count, this.#room) !== 0
    )
      return null;
    return parseUses(this.#room, count[0]!);
  }

  [Symbol.dispose](): void {
    this.#library.symbols.nvmlShutdown();
    this.#library.close();
  }

  #readTotal(handle: Pointer): number {
    const memory = new BigUint64Array(MEMORY_V2_BYTES / 8);
    new Uint32Array(memory.buffer)[0] = MEMORY_V2_BYTES | (2 << 24);
    if (this.#library.symbols.nvmlDeviceGetMemoryInfo_v2(handle, memory) !== 0) return 0;
    return Number(memory[1]! - memory[2]!);
  }
}

/**
 * Reads `count` elements of nvmlDeviceGetComputeRunningProcesses_v3. Drivers of the 535 branch wrote 32
 * bytes each, all others 24: what was written tells which.
 */
export function parseUses(room: Uint8Array, count: number): CardUse[] {
  let written = room.length;
  while (written > 0 && room[written - 1] === NOT_WRITTEN) written--;
  const stride = written > count * 24 ? 32 : 24;
  const view = new DataView(room.buffer, room.byteOffset);
  return Array.from({ length: count }, (_, index) => ({
    pid: view.getUint32(index * stride, true),
    bytes: view.getBigUint64(index * stride + 8, true),
  })).flatMap(({ pid, bytes }) => (bytes === NOT_AVAILABLE ? [] : [{ pid, bytes: Number(bytes) }]));
}

function readText(fill: (text: Uint8Array) => number): string {
  const text = new Uint8Array(96);
  return fill(text) === 0 ? Buffer.from(text.subarray(0, text.indexOf(0))).toString() : "";
}
