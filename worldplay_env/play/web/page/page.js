// The page of the player: draws the frames that the server sends, and tells it which keys go down and up.
// What the messages are is said in protocol.py.

import { HeldKeys } from "./keys.js";
import { drawMap } from "./map.js";

const HEADER_BYTES = 28;
const MOVES = { w: "w", a: "a", s: "s", d: "d", arrowup: "up", arrowleft: "left", arrowdown: "down", arrowright: "right" };
const COMMAND_KEYS = { enter: "restart", p: "pause", f: "film", c: "picture", b: "bookmark", n: "return" };
const REMEMBERED_FRAMES = 512; // as many as the chunks that can be gone back over have
const CUSHION_MS = 60; // a frame is drawn so long after it could be, so that one that is a little late is still in time
const SLACK_MS = 90; // frames that come less early or late than this keep to the rate of playback
const SLOWEST_RETRY_MS = 5000;
const CLOSED = {
  4000: "this page was opened again elsewhere",
  4001: "somebody plays already, and no place to watch is free",
  4002: "disconnected: nothing was pressed for a while",
  4003: "disconnected: too many messages",
  4004: "the program has ended",
};

const $ = (id) => document.getElementById(id);
const stage = $("stage");
const picture = $("picture").getContext("2d");
const narrow = matchMedia("(max-width: 760px)");
const client = sessionStorage.client ??= crypto.randomUUID?.() ?? String(Math.random()).slice(2);

let socket = null;
let retryMs = 250;
let state = null;
let queue = []; // frames on their way to the screen
let past = []; // frames that were on it
let shown = null; // the newest of those
let looking = false; // at the past
let stopped = false; // by looking there
let latency = null; // ms from key to picture, measured here
let period = 1000 / 16; // ms from frame to frame
let newest = null; // the frame that came last
let offsets = []; // how much later than the server's clock frames come, of late

history.replaceState(null, "", "/"); // the token now lies in a cookie

// ---- the line

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}/socket?client=${client}`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = (event) => (typeof event.data === "string" ? onText(JSON.parse(event.data)) : onFrame(event.data));
  socket.onclose = (event) => {
    held.forget();
    queue = [];
    if (event.code in CLOSED) {
      line(`${CLOSED[event.code]}; reload to connect again`);
      return;
    }
    line("the line is cut: connecting again");
    setTimeout(connect, retryMs);
    retryMs = Math.min(SLOWEST_RETRY_MS, 2 * retryMs);
  };
}

function say(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function line(text) {
  $("line").textContent = text;
}

function onText(message) {
  if (message.type === "state") {
    state = message;
    showState();
    return;
  }
  retryMs = 250;
  offsets = [];
  newest = null;
  period = 1000 / message.fps;
  document.title = `WorldPlay: ${message.title}`;
  $("title").textContent = message.title;
  document.body.classList.toggle("watcher", message.role === "watcher");
  line(message.role === "watcher" ? "watching" : "");
  showGallery(message.starts);
}

async function onFrame(data) {
  const header = new DataView(data);
  const frame = {
    number: header.getUint32(0, true),
    chunk: header.getUint32(4, true),
    index: header.getUint32(8, true),
    shownAt: header.getFloat64(12, true),
    pressedAt: header.getFloat64(20, true), // NaN where it answers no key
    blob: new Blob([data.slice(HEADER_BYTES)], { type: "image/jpeg" }),
  };
  say({ type: "ack", frame: frame.number });
  offsets.push(performance.now() - frame.shownAt);
  if (offsets.length > 64) offsets.shift();
  frame.due = dueTime(frame);
  newest = frame;
  try {
    frame.image = await createImageBitmap(frame.blob);
  } catch {
    return;
  }
  queue.push(frame);
  queue.sort((one, other) => one.number - other.number);
}

// ---- drawing

// Return when to draw a frame: a period after the one before it, corrected by a little of what the two clocks differ by.
function dueTime(frame) {
  const due = frame.shownAt + Math.min(...offsets) + CUSHION_MS;
  const steady = newest ? newest.due + period * (frame.number - newest.number) : due;
  return Math.abs(due - steady) < SLACK_MS ? steady + (due - steady) / 32 : due;
}

function tick(now) {
  let due = null;
  while (queue.length && queue[0].due <= now + 4) {
    due?.image.close();
    due = queue.shift();
    remember(due);
  }
  if (due) {
    shown = due;
    if (!looking) draw(due.image);
    if (!Number.isNaN(due.pressedAt)) {
      latency = now - due.pressedAt;
      showFigures();
    }
    due.image.close();
    delete due.image;
    showTime();
  }
  held.pollGamepad();
  requestAnimationFrame(tick);
}

function draw(image) {
  const widths = narrow.matches && state ? state.widths : [image.width]; // of worlds below each other, or side by side
  const canvas = picture.canvas;
  const [width, height] = [Math.max(...widths), image.height * widths.length];
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
    stage.style.setProperty("--aspect", width / height);
  }
  let left = 0;
  widths.forEach((part, row) => {
    picture.drawImage(image, left, 0, part, image.height, 0, row * image.height, part, image.height);
    left += part;
  });
}

function remember(frame) {
  // The way goes on from an earlier place: what came after it is no longer its past.
  const after = ({ chunk, index }) => chunk > frame.chunk || (chunk === frame.chunk && index >= frame.index);
  while (past.length && after(past.at(-1))) past.pop();
  past.push(frame);
  if (past.length > REMEMBERED_FRAMES) past.shift();
}

// ---- going back in time

function showTime() {
  const slider = $("time");
  if (!looking) {
    slider.max = Math.max(0, past.length - 1);
    slider.value = slider.max;
  }
  slider.disabled = past.length < 2;
}

async function lookBack() {
  const frame = past[Number($("time").value)];
  if (!frame) return;
  if (!looking && !state.paused) {
    say({ type: "command", command: "pause" });
    stopped = true;
  }
  looking = true;
  const ago = (shown.shownAt - frame.shownAt) / 1000;
  $("time").setAttribute("aria-valuetext", `${ago.toFixed(1)} seconds ago`);
  $("fork").disabled = frame.chunk < state.rewinds_from;
  $("now").disabled = false;
  const image = await createImageBitmap(frame.blob);
  if (looking) draw(image);
  image.close();
}

async function lookAhead() {
  if (!looking) return;
  looking = false;
  $("fork").disabled = $("now").disabled = true;
  $("time").setAttribute("aria-valuetext", "now");
  showTime();
  if (stopped) say({ type: "command", command: "pause" });
  stopped = false;
  if (shown) {
    const image = await createImageBitmap(shown.blob);
    draw(image);
    image.close();
  }
}

function fork() {
  const frame = past[Number($("time").value)];
  say({ type: "rewind", chunk: frame.chunk });
  lookAhead();
  $("picture").focus();
}

// ---- what is over the picture

function text(id, words) {
  const element = $(id);
  if (element.textContent !== words) element.textContent = words;
  element.hidden = !words;
}

function showState() {
  for (const name of ["notice", "sign", "verdict", "error"]) text(name, state[name]);
  $("action").textContent = state.action;
  $("paused").hidden = !state.paused || looking;
  text("filming", state.filming === null ? "" : `film ${state.filming.toFixed(1)} s`);
  $("loading").hidden = !state.progress;
  if (state.progress) {
    $("loading-text").textContent = state.progress.text;
    $("progress").value = state.progress.fraction;
  }
  for (const button of document.querySelectorAll("[data-key]")) {
    const lit = state.held.includes(button.dataset.key) || held.has(button.dataset.key);
    button.classList.toggle("lit", lit);
  }
  pressed("pause", state.paused);
  pressed("film", state.filming !== null);
  $("prompt").disabled = !state.takes_prompt;
  $("prompt-form").querySelector("button").disabled = !state.takes_prompt;
  $("prompt").placeholder = state.takes_prompt ? "it begins to snow" : "this world takes no new prompt";
  replaceChildren($("captions"), state.captions, (caption) => Object.assign(document.createElement("span"), { textContent: caption }));
  showFigures();
  showFiles();
  drawMap($("map"), state.walks);
}

function pressed(command, on) {
  document.querySelector(`[data-command=${command}]`).setAttribute("aria-pressed", String(on));
}

function replaceChildren(parent, items, make) {
  const key = JSON.stringify(items);
  if (parent.dataset.items === key) return;
  parent.dataset.items = key;
  parent.replaceChildren(...items.map(make));
}

function showFigures() {
  if (!state) return;
  const lines = state.figures.filter((words) => latency === null || !words.startsWith("key to picture"));
  if (latency !== null) lines.splice(1, 0, `key to picture ${(latency / 1000).toFixed(2)} s, on this screen`);
  replaceChildren($("figures"), lines, (words) => Object.assign(document.createElement("li"), { textContent: words }));
}

function showFiles() {
  $("saved").hidden = !state.files.length;
  replaceChildren($("files"), state.files, (name, number) => {
    const link = Object.assign(document.createElement("a"), { href: `/files/${number}`, download: name, textContent: name });
    const item = document.createElement("li");
    item.append(link);
    return item;
  });
}

function showGallery(names) {
  replaceChildren($("gallery"), names, (name) => {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.append(Object.assign(document.createElement("img"), { src: `/starts/${name}`, alt: "" }), name);
    button.onclick = () => say({ type: "start", name });
    return button;
  });
}

// ---- keys

const held = new HeldKeys(
  (key, down, at) => {
    if (down && looking) lookAhead();
    say({ type: "key", key, down, at });
    document.querySelector(`[data-key=${key}]`).classList.toggle("lit", down);
  },
  () => say({ type: "release" }),
);
const releaseAll = () => held.releaseAll();
for (const button of document.querySelectorAll("[data-key]")) held.listenTo(button);

function command(name) {
  if (looking) lookAhead();
  say({ type: "command", command: name });
}

const isField = (element) => element.matches?.("input, textarea, select") && element.type !== "range";

addEventListener("keydown", (event) => {
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  if (isField(event.target)) {
    if (key === "escape") $("picture").focus();
    return;
  }
  const onControl = event.target.matches?.("button, a, input, summary");
  if (key in MOVES && !(event.target.type === "range" && key.startsWith("arrow"))) {
    held.set(MOVES[key], "keyboard", true, event.timeStamp);
  } else if (key in COMMAND_KEYS && !(key === "enter" && onControl)) {
    if (!event.repeat) command(COMMAND_KEYS[key]);
  } else if (key === "t" && !$("prompt").disabled) {
    releaseAll();
    $("prompt").focus();
  } else if (key === "h") {
    stage.classList.toggle("plain");
  } else if (key === "?") {
    openHelp();
  } else {
    return;
  }
  event.preventDefault();
});

addEventListener("keyup", (event) => {
  const key = MOVES[event.key.toLowerCase()];
  if (key && held.has(key, "keyboard")) held.set(key, "keyboard", false, event.timeStamp);
});

addEventListener("blur", releaseAll);
document.addEventListener("visibilitychange", () => document.hidden && releaseAll());

// ---- buttons, prompt, pictures

for (const button of document.querySelectorAll("[data-command]")) {
  button.addEventListener("click", () => command(button.dataset.command));
}
$("prompt-form").addEventListener("submit", (event) => {
  event.preventDefault();
  say({ type: "prompt", text: $("prompt").value });
  $("picture").focus();
});
$("time").addEventListener("input", lookBack);
$("fork").addEventListener("click", fork);
$("now").addEventListener("click", lookAhead);
$("picture").addEventListener("pointerdown", () => $("picture").focus());

function openHelp() {
  releaseAll();
  $("help").showModal();
  $("help-button").setAttribute("aria-expanded", "true");
}
$("help-button").addEventListener("click", openHelp);
$("help").addEventListener("close", () => $("help-button").setAttribute("aria-expanded", "false"));

async function begin(file) {
  if (!file) return;
  line("sending the picture");
  const prompt = encodeURIComponent($("prompt").value);
  try {
    const answer = await fetch(`/picture?client=${client}&prompt=${prompt}`, { method: "POST", body: file });
    line(answer.ok ? "" : (await answer.text()).trim());
  } catch {
    line("the picture could not be sent");
  }
}

const pictureOf = (transfer) => [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/"));
$("file").addEventListener("change", (event) => begin(event.target.files[0]));
addEventListener("paste", (event) => begin(pictureOf(event.clipboardData)));
addEventListener("dragover", (event) => {
  event.preventDefault();
  dropping(true);
});
addEventListener("dragleave", (event) => event.relatedTarget === null && dropping(false));
addEventListener("drop", (event) => {
  event.preventDefault();
  dropping(false);
  begin(pictureOf(event.dataTransfer));
});

function dropping(on) {
  stage.classList.toggle("dropping", on);
  $("drop").hidden = !on;
}

connect();
requestAnimationFrame(tick);
$("picture").focus();
