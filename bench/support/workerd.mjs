// Finds the workerd process of a runtime and reads its CPU time and memory from Linux's /proc.
import { readFileSync, readdirSync, writeFileSync } from "node:fs";

const TICKS_PER_SECOND = 100; // unit of the times in /proc/<pid>/stat: USER_HZ, which is 100 on every Linux
const KIB = 1024;

// Runs `start`, which starts one runtime, and returns [what it returned, the pid of its workerd].
export async function withPid(start) {
  const before = workerdChildren();
  const started = await start();
  const [pid, ...more] = workerdChildren().filter((candidate) => !before.includes(candidate));
  if (pid === undefined || more.length > 0) throw new Error("cannot tell which workerd process was started: start only one runtime at a time");
  return [started, pid];
}

// The CPU time of a process in seconds, user and system.
export function cpuSeconds(pid) {
  const [, user, system] = /^(?:\S+ ){11}(\d+) (\d+)/.exec(statFields(pid));
  return (Number(user) + Number(system)) / TICKS_PER_SECOND;
}

// Resident memory in bytes: now, and the peak since the start of the process or resetPeak.
export function residentBytes(pid) {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const bytes = (field) => Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(status)[1]) * KIB;
  return { now: bytes("VmRSS"), peak: bytes("VmHWM") };
}

// Resets the peak of residentBytes.
export function resetPeak(pid) {
  writeFileSync(`/proc/${pid}/clear_refs`, "5"); // proc(5): resets the peak resident set size
}

function workerdChildren() {
  return readdirSync("/proc").filter((name) => {
    if (!/^\d+$/.test(name)) return false;
    try {
      return readFileSync(`/proc/${name}/comm`, "utf8").trim() === "workerd" && Number(statFields(name).split(" ")[1]) === process.pid;
    } catch {
      return false; // the process ended meanwhile
    }
  });
}

// The fields of /proc/<pid>/stat after the process name, which may contain spaces: [state, parent, ...].
function statFields(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  return stat.slice(stat.lastIndexOf(")") + 2);
}
