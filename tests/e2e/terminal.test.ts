import { expect, test } from "bun:test";
import { join } from "node:path";
import { PLAIN, ROOT } from "../vgpu.ts";

const BIN = join(ROOT, "bin/vgpu");

/** An interactive shell on a terminal of its own. */
class Shell implements AsyncDisposable {
  #seen = "";
  readonly #process;

  constructor() {
    this.#process = Bun.spawn(["bash", "--norc", "--noprofile", "-i"], {
      env: { ...PLAIN, PS1: "ready> ", TERM: "dumb", vgpu: BIN },
      terminal: {
        cols: 200,
        rows: 50,
        data: (_, bytes) => void (this.#seen += Buffer.from(bytes).toString()),
      },
    });
  }

  type(text: string): void {
    this.#process.terminal!.write(text);
  }

  /** Waits for the text in what came since the last call. */
  async expect(text: string | RegExp): Promise<string> {
    const until = Date.now() + 10_000;
    while (this.#seen.search(text) < 0) {
      if (Date.now() > until) throw new Error(`no ${text} in:\n${this.#seen}`);
      await Bun.sleep(10);
    }
    const seen = this.#seen;
    this.#seen = "";
    return seen;
  }

  async [Symbol.asyncDispose]() {
    this.#process.kill("SIGKILL");
    await this.#process.exited;
  }
}

test("a shell's loop stops at Ctrl-C", async () => {
  await using shell = new Shell();
  await shell.expect("ready> ");
  shell.type("for i in 1 2 3; do echo round-$i; $vgpu run -q sleep 20; done; echo status=$?\n");
  await shell.expect(/\nround-1/);
  await Bun.sleep(300);
  shell.type("\x03");
  expect(await shell.expect(/ready> $/)).not.toContain("round-2");
  shell.type("echo status=$?\n");
  await shell.expect("status=130");
});

test("on a terminal the target gets each SIGINT once: Ctrl-C from there, another from vgpu", async () => {
  await using shell = new Shell();
  await shell.expect("ready> ");
  const count = "n=0; trap 'n=$((n+1)); echo in\"\"t-$n' INT; trap 'echo su\"\"m-$n; exit' USR1";
  shell.type(
    `$vgpu run -q bash -c '${count.replaceAll("'", "'\\''")}; echo par""ent-$PPID-; while :; do sleep 0.05; done'\n`,
  );
  const [, pid] = /parent-(\d+)-/.exec(await shell.expect(/parent-\d+-/)) ?? [];
  shell.type("\x03");
  await shell.expect("int-1");
  process.kill(Number(pid), "SIGINT");
  await shell.expect("int-2");
  shell.type("\x03");
  await shell.expect("int-3");
  process.kill(Number(pid), "SIGUSR1");
  await shell.expect("sum-3");
});

test("Ctrl-Z stops it all, fg goes on", async () => {
  await using shell = new Shell();
  await shell.expect("ready> ");
  shell.type('$vgpu run -q sh -c \'echo be""gun; sleep 1; echo do""ne\'\n');
  await shell.expect("begun");
  shell.type("\x1a");
  await shell.expect(/Stopped/);
  shell.type("fg\n");
  await shell.expect("done");
});

test("what the target did to the terminal stays done", async () => {
  await using shell = new Shell();
  await shell.expect("ready> ");
  shell.type("$vgpu run -q stty -onlcr; stty -a | tr ' ' '\\n' | grep onlcr; stty onlcr\n");
  await shell.expect("\n-onlcr");
});

test("on a terminal limits show what they did, sessions in which nothing happened say nothing", async () => {
  await using shell = new Shell();
  await shell.expect("ready> ");
  shell.type('$vgpu run --sim true; echo e""nd\n');
  const seen = await shell.expect(/\nend/);
  expect(seen).not.toContain("session.start");
});
