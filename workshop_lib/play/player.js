// The player's screen, in a notebook (anywidget) and on a page of its own (page.html).
// It asks for a frame, draws it, and only then asks for the next: the browser sets the pace.

const KEYS = {
  ArrowLeft: "left", KeyA: "left", ArrowRight: "right", KeyD: "right",
  ArrowUp: "up", KeyW: "up", ArrowDown: "down", KeyS: "down", Space: "wait",
};
const PAD = [ // what a button holds, and what is written on it
  ["left up", "↖"], ["up", "↑"], ["right up", "↗"],
  ["left", "←"], ["down", "↓"], ["right", "→"],
];
const PATIENCE = 20000; // milliseconds after which an answer is given up
const SHOWN = 160; // frames in the trace
const NOTED = 45; // frames for which an end is told
const SHAPE = `
  <div class="wp-screens">
    <figure class="wp-main"><canvas width="64" height="64"></canvas><figcaption></figcaption></figure>
    <figure class="wp-other"><canvas width="64" height="64"></canvas><figcaption></figcaption></figure>
  </div>
  <div class="wp-apart"><span></span><canvas></canvas></div>
  <div class="wp-desk">
    <div class="wp-pad" role="group" aria-label="keys"></div>
    <div class="wp-tools">
      <div>
        <button data-do="run" title="the world goes on by itself (P)">▶ run</button>
        <button data-do="single" title="one step for each press">single steps</button>
        <button data-do="undo" title="take a step back (Z)">↶ undo</button>
        <button data-do="reset" title="back to the beginning (R)">⟲ reset</button>
      </div>
      <div>
        <button data-do="switch" title="game or dream (G)">G game / dream</button>
        <button data-do="both" title="game and dream side by side">side by side</button>
        <label>at most <select>
          <option>5</option><option>10</option><option selected>15</option><option>30</option>
          <option value="1000">any</option></select> frames/s</label>
      </div>
      <output></output><small></small>
    </div>
  </div>`;

// link: {send(message), receive(callback(answer, [Uint8Array, ...]))}. Returns what ends it.
export function mount(root, link) {
  root.classList.add("wp");
  root.tabIndex = 0;
  root.dataset.lmSuppressShortcuts = "true"; // JupyterLab: keys pressed here are ours
  root.innerHTML = SHAPE;
  const find = (selector) => root.querySelector(selector);
  const view = Math.random().toString(36).slice(2);
  const held = new Set(), tapped = new Set(); // down now; down at some time since the last request
  const off = new AbortController(), on = { signal: off.signal };
  const screen = { dream: null, game: null, first: "dream" };
  const state = { codes: 0, action: null, trace: [], world: "", speed: [] };
  let asked = 0, waiting = 0, sentAt = 0, timer = 0, pressedAt = 0, noted = 0;
  let running = false, single = false;

  const say = (text, bad = false) => {
    find("small").textContent = text;
    find("small").classList.toggle("wp-bad", bad);
  };

  function chosen() { // the action that the keys mean
    const keys = new Set([...held, ...tapped].flatMap((key) => key.split(" ")));
    if (state.codes) {
      const codes = [...keys].filter((key) => /^\d+$/.test(key));
      return codes.length ? Number(codes.at(-1)) : (state.action ?? 0);
    }
    const across = keys.has("right") - keys.has("left");
    return 3 * (across + 1) + (keys.has("up") - keys.has("down")) + 1;
  }

  function ask(message) {
    asked += 1;
    sentAt = performance.now();
    clearTimeout(waiting);
    waiting = setTimeout(() => stop("No answer. Is the kernel running?", true), PATIENCE);
    link.send({ ...message, view, id: asked });
  }

  function pump() { // asks for the next step, if one is wanted, as soon as it may
    if (waiting || timer) return;
    if (!(running || tapped.size || (held.size && !single))) return;
    const pause = sentAt + 1000 / find("select").value - performance.now();
    if (pause > 1) {
      timer = setTimeout(() => { timer = 0; pump(); }, pause);
      return;
    }
    const action = chosen();
    tapped.clear();
    ask({ do: "step", action });
  }

  function press(key) {
    if (!waiting && !timer) pressedAt = performance.now();
    held.add(key);
    tapped.add(key);
    lights();
    pump();
  }

  function release(key) {
    held.delete(key);
    lights();
  }

  function stop(text = "", bad = false) {
    clearTimeout(waiting);
    clearTimeout(timer);
    held.clear();
    tapped.clear();
    waiting = timer = 0;
    running = false;
    say(text, bad);
    lights();
  }

  const orders = {
    run: () => { if (running) stop(); else { running = true; pump(); } },
    single: () => { single = !single; running = false; },
    undo: () => { if (!waiting) ask({ do: "undo" }); },
    reset: () => { stop(); ask({ do: "reset" }); },
    switch: () => {
      if (!screen.game) say("The real game does not run beside this dream.");
      else screen.first = screen.first === "dream" ? "game" : "dream";
      draw();
    },
    both: () => { root.classList.toggle("wp-both"); draw(); },
  };
  const ORDER_KEYS = { KeyP: "run", KeyZ: "undo", Backspace: "undo", KeyR: "reset", KeyG: "switch" };

  function receive(answer, pictures) {
    if (answer.view === view) {
      if (answer.id !== asked) return; // outdated
      clearTimeout(waiting);
      waiting = 0;
    }
    if ("world" in answer) { // another session, or another moment of it
      state.trace = answer.trace;
      state.world = answer.world;
      if (state.codes !== answer.codes || !find(".wp-pad").children.length) layPad(answer.codes);
      find(".wp-main").title = answer.prompt;
    } else if (!answer.error) {
      state.trace = [...state.trace, answer.psnr].slice(-400);
    }
    state.action = answer.action;
    const [height, width] = answer.size;
    const picture = (bytes, over) => ({ bytes, width, height, over });
    screen.dream = picture(pictures[0], false);
    if (pictures[1]) screen.game = picture(pictures[1], false);
    else if ("world" in answer) screen.game = null;
    else if (screen.game) screen.game.over = true; // its level has ended
    if (!screen.game) screen.first = "dream";
    draw();
    report(answer);
    if (answer.error) stop(answer.error, true);
    else if (answer.view === view) pump();
  }

  function report(answer) {
    const now = performance.now();
    if (answer.view !== view) return;
    const detail = { ...answer, trip: now - sentAt, key: pressedAt ? now - pressedAt : null };
    pressedAt = 0;
    state.speed = [...state.speed.filter((t) => t > now - 1000), now];
    const parts = [`frame ${answer.count}`, answer.caption || "–"];
    if (!("world" in answer)) {
      parts.push(`${state.speed.length} fps`, `model ${answer.ms.toFixed(0)} ms`);
      parts.push(`rest ${Math.max(0, detail.trip - answer.ms).toFixed(0)} ms`);
    }
    find("output").textContent = parts.join("  ·  ");
    if (answer.note) {
      noted = answer.count;
      say(`${answer.begun ? "The dream begins anew" : "The real game"}: ${answer.note}`);
    } else if (noted && (answer.count < noted || answer.count >= noted + NOTED)) {
      noted = 0;
      say("");
    }
    root.dispatchEvent(new CustomEvent("player-frame", { detail, bubbles: true }));
  }

  function draw() {
    const names = { dream: state.world, game: "the real game" };
    const second = screen.first === "dream" ? "game" : "dream";
    root.classList.toggle("wp-alone", !screen.game);
    for (const [place, which] of [[".wp-main", screen.first], [".wp-other", second]]) {
      const shown = screen[which], figure = find(place);
      if (!shown) continue;
      paint(figure.querySelector("canvas"), shown);
      figure.dataset.shows = which;
      figure.classList.toggle("wp-over", shown.over);
      figure.querySelector("figcaption").textContent = names[which] + (shown.over ? ", over" : "");
    }
    plot(find(".wp-apart canvas"), find(".wp-apart span"), state.trace);
    lights();
  }

  function lights() { // buttons that are pressed, or were, for the frame that is shown
    const across = Math.floor((state.action ?? 4) / 3) - 1, up = ((state.action ?? 4) % 3) - 1;
    const lit = state.codes ? [`${state.action}`] : [
      { "-1": "left", 1: "right" }[across], { "-1": "down", 1: "up" }[up]];
    if (!state.codes && lit[0] && lit[1]) lit.push(lit.join(" "));
    for (const button of find(".wp-pad").children)
      button.classList.toggle("wp-lit", lit.includes(button.dataset.key) || held.has(button.dataset.key));
    find("[data-do=run]").textContent = running ? "■ stop" : "▶ run";
    find("[data-do=single]").classList.toggle("wp-lit", single);
    find("[data-do=both]").classList.toggle("wp-lit", root.classList.contains("wp-both"));
  }

  function layPad(codes) {
    state.codes = codes;
    const keys = codes ? Array.from({ length: codes }, (_, code) => [`${code}`, `${code}`])
      : [...PAD, ["wait", "wait"]];
    find(".wp-pad").replaceChildren(...keys.map(([key, label]) => {
      const button = document.createElement("button");
      button.dataset.key = key;
      button.tabIndex = -1; // the keyboard has keys of its own
      button.textContent = label;
      button.setAttribute("aria-label", codes ? `code ${key}` : key);
      return button;
    }));
    say(codes ? "Click here, then press digits: the world is driven by codes."
      : "Click here, then play: arrows or WASD, space to wait.");
  }

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.tagName === "SELECT") {
      event.stopPropagation();
      return;
    }
    if (event.code !== "Tab") event.stopPropagation();
    if (event.target.dataset.do && ["Space", "Enter"].includes(event.code)) return; // its own click
    const digit = state.codes && /^(Digit|Numpad)(\d)$/.exec(event.code)?.[2];
    const key = digit && Number(digit) < state.codes ? digit : !state.codes && KEYS[event.code];
    if (key) {
      if (!event.repeat) press(key);
    } else if (ORDER_KEYS[event.code]) {
      if (!event.repeat || event.code === "KeyZ" || event.code === "Backspace") {
        orders[ORDER_KEYS[event.code]]();
        lights();
      }
    } else if (event.code === "Escape") {
      stop();
      root.blur();
    } else return;
    event.preventDefault();
  }, on);
  root.addEventListener("keyup", (event) => {
    event.stopPropagation();
    const digit = /^(Digit|Numpad)(\d)$/.exec(event.code)?.[2];
    release(state.codes ? digit : KEYS[event.code]);
  }, on);
  root.addEventListener("pointerdown", (event) => {
    if (event.target.tagName !== "SELECT") root.focus({ preventScroll: true });
    const key = event.target.dataset.key;
    if (!key) return;
    event.target.setPointerCapture(event.pointerId);
    press(key);
  }, on);
  root.addEventListener("mousedown", (event) => { // the focus stays with the keys
    if (event.target.tagName === "BUTTON") event.preventDefault();
  }, on);
  for (const name of ["pointerup", "pointercancel", "lostpointercapture"])
    root.addEventListener(name, (event) => release(event.target.dataset.key), on);
  root.addEventListener("contextmenu", (event) => {
    if (event.target.dataset.key) event.preventDefault(); // a long touch is a held key
  }, on);
  root.addEventListener("click", (event) => {
    const order = event.target.dataset.do;
    if (order) { orders[order](); lights(); }
  }, on);
  root.addEventListener("focusout", (event) => {
    if (root.contains(event.relatedTarget)) return;
    held.clear();
    lights();
  }, on);
  document.addEventListener("visibilitychange", () => document.hidden && stop(), on);

  link.receive(receive);
  ask({ do: "show" });
  return () => { stop(); off.abort(); };
}

function paint(canvas, { bytes, width, height }) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const image = new ImageData(width, height);
  for (let from = 0, to = 0; from < bytes.length; from += 3, to += 4) {
    image.data[to] = bytes[from];
    image.data[to + 1] = bytes[from + 1];
    image.data[to + 2] = bytes[from + 2];
    image.data[to + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// How near dream and game are, in dB, over the last frames: 40 is very near, 10 is elsewhere.
function plot(canvas, label, trace) {
  const fine = window.devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * fine;
  canvas.height = canvas.clientHeight * fine;
  const pen = canvas.getContext("2d");
  pen.scale(fine, fine);
  const width = canvas.clientWidth, height = canvas.clientHeight, left = 40;
  const y = (dB) => height - 6 - ((Math.min(40, Math.max(10, dB)) - 10) / 30) * (height - 12);
  pen.font = "10px system-ui, sans-serif";
  pen.textBaseline = "middle";
  pen.fillStyle = "#9aa0ac";
  pen.strokeStyle = "#3e434f";
  for (const dB of [10, 25, 40]) {
    pen.fillText(`${dB} dB`, 2, y(dB));
    pen.beginPath();
    pen.moveTo(left, y(dB));
    pen.lineTo(width, y(dB));
    pen.stroke();
  }
  const shown = trace.slice(-SHOWN);
  pen.lineWidth = 1.5;
  pen.strokeStyle = "#ffbe0b";
  pen.beginPath();
  shown.forEach((dB, i) => { // a gap where nothing is known
    if (dB == null) return;
    const x = left + (i + 0.5) * ((width - left) / SHOWN);
    if (i && shown[i - 1] != null) pen.lineTo(x, y(dB));
    else pen.moveTo(x, y(dB));
  });
  pen.stroke();
  const last = shown.at(-1);
  label.textContent = "how far apart" + (last == null ? "" : `: ${last.toFixed(1)} dB`);
}

const bytesOf = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

export default {
  render({ model, el }) {
    const root = document.createElement("div");
    el.append(root);
    let hear = () => {};
    const onAnswer = (answer, buffers) => hear(answer, buffers.map(bytesOf));
    model.on("msg:custom", onAnswer);
    const end = mount(root, {
      send: (message) => model.send(message),
      receive: (callback) => { hear = callback; },
    });
    return () => { end(); model.off("msg:custom", onAnswer); };
  },
};
