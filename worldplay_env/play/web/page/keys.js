// Movement keys that are held down: by the keyboard, the pads on the page, a gamepad, or several of them.

const STICK = 0.4; // of a stick's way, from which on it counts

export class HeldKeys {
  #devices = new Map(); // key -> the devices that hold it down
  #onEdge;
  #onRelease;

  // onEdge(key, down, at) is told of every edge, in milliseconds of the page's clock; onRelease() that all went up.
  constructor(onEdge, onRelease) {
    this.#onEdge = onEdge;
    this.#onRelease = onRelease;
  }

  has(key, device) {
    return device === undefined ? this.#devices.has(key) : Boolean(this.#devices.get(key)?.has(device));
  }

  set(key, device, down, at = performance.now()) {
    const devices = this.#devices.get(key) ?? new Set();
    const before = devices.size > 0;
    down ? devices.add(device) : devices.delete(device);
    devices.size ? this.#devices.set(key, devices) : this.#devices.delete(key);
    if (before !== devices.size > 0) this.#onEdge(key, down, at);
  }

  releaseAll() {
    if (this.#devices.size) this.#onRelease();
    this.forget();
  }

  forget() {
    this.#devices.clear();
  }

  // Let a button hold down the key that its data-key names.
  listenTo(button) {
    const key = button.dataset.key;
    const up = (event) => this.set(key, `pointer ${event.pointerId}`, false, event.timeStamp);
    button.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      button.setPointerCapture(event.pointerId);
      this.set(key, `pointer ${event.pointerId}`, true, event.timeStamp);
    });
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) button.addEventListener(name, up);
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    // A screen reader's or keyboard's click is a tap.
    button.addEventListener("click", (event) => {
      if (event.detail === 0) {
        this.set(key, "click", true);
        this.set(key, "click", false);
      }
    });
  }

  // Take the sticks of the first gamepad: the left one moves, the right one looks.
  pollGamepad() {
    const [pad] = [...(navigator.getGamepads?.() ?? [])].filter((one) => one?.connected && one.axes.length >= 4);
    const [right, back, yaw, pitch] = pad?.axes ?? [0, 0, 0, 0];
    const wanted = { d: right > STICK, a: right < -STICK, s: back > STICK, w: back < -STICK };
    Object.assign(wanted, { right: yaw > STICK, left: yaw < -STICK, down: pitch > STICK, up: pitch < -STICK });
    for (const [key, down] of Object.entries(wanted)) {
      if (down !== this.has(key, "gamepad")) this.set(key, "gamepad", down);
    }
  }
}
