import { readState, readHead } from "./libc.ts";
import { findProgram } from "./program.ts";

const ELEVATE = ["sudo", "doas", "su", "pkexec", "runuser"];
const CONTAINERS = ["docker", "podman", "nerdctl", "ctr", "kubectl", "machinectl"];
const SETUID_OR_SETGID = 0o6000;
const PT_INTERP = 3;

/** Why limits will not reach inside this program, or null if nothing speaks against it. A preload needs the dynamic loader and its trust. */
export function findObstacle(word: string): string | null {
  const name = word.slice(word.lastIndexOf("/") + 1);
  if (ELEVATE.includes(name))
    return `${name} clears LD_PRELOAD: limits do not reach inside; put vgpu inside: ${name === "su" ? "su -c 'vgpu run …'" : `${name} vgpu run …`}`;
  if (CONTAINERS.includes(name))
    return `${name} starts processes elsewhere: limits do not reach inside the container`;
  const path = word.includes("/") ? word : findProgram(word);
  if (path === null) return null;
  const mode = readState(path)?.mode ?? 0;
  if ((mode & SETUID_OR_SETGID) !== 0)
    return `${name} is setuid or setgid: limits do not reach inside`;
  return isStatic(path)
    ? `${name} is statically linked: limits reach only the programs that it starts`
    : null;
}

/** True for an ELF program that asks for no loader. Scripts and unreadable files are not. */
function isStatic(path: string): boolean {
  const bytes = readHead(path, 4096);
  if (bytes === null || bytes.length < 64) return false;
  const head = new DataView(bytes.buffer);
  if (head.getUint32(0) !== 0x7f454c46 || head.getUint8(4) !== 2) return false;
  const table = Number(head.getBigUint64(32, true));
  const entryBytes = head.getUint16(54, true);
  const count = head.getUint16(56, true);
  if (count === 0 || table + count * entryBytes > bytes.length) return false;
  return !Array.from({ length: count }, (_, i) =>
    head.getUint32(table + i * entryBytes, true),
  ).includes(PT_INTERP);
}
