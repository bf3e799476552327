/**
 * An error that the user can act on. `message` names what was given and where, `hint` shows good
 * forms or the fix; cli.ts prints both on one line and ends with `exitCode` (125: vgpu's own).
 */
export class VgpuError extends Error {
  override name = "VgpuError";
  readonly hint: string | undefined;
  readonly exitCode: number;

  constructor(
    message: string,
    { hint, exitCode = 125 }: { hint?: string | undefined; exitCode?: number } = {},
  ) {
    super(message);
    this.hint = hint;
    this.exitCode = exitCode;
  }

  /** The one line for the terminal, without the `vgpu:` prefix and without line breaks. */
  get oneLine(): string {
    const text = this.hint === undefined ? this.message : `${this.message}; ${this.hint}`;
    return text.replace(/\s*[\r\n]+\s*/g, " ");
  }
}

/** The value in quotes, control characters escaped and cut at 60 characters, for an error message. */
export function quote(value: string): string {
  const cut = value.length > 60 ? `${value.slice(0, 57)}...` : value;
  return `'${cut.replace(/[\x00-\x1f\x7f]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`)}'`;
}
