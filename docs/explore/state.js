// What the reader has set, in the address of the page: a teacher sends "this slider at 30%" as a link.
//
//     explore.html#costs&costs.ratio=0.3&costs.preset=stock
//
// The first word is the part that is shown. Values that are as they were at first are not written.

/**
 * The state that a fragment says, for settings { name: { fallback, read, write } }.
 * `read(text)` is undefined for a text that the setting cannot have. Returns { part, values, damaged }: the name of
 * the part or "", all values, and the pieces of the fragment that nobody understands.
 */
export function readFragment(fragment, settings, parts) {
  const values = {};
  for (const [name, setting] of Object.entries(settings)) {
    values[name] = setting.fallback;
  }
  const [part, ...pieces] = fragment.replace(/^#/, "").split("&");
  const damaged = part === "" || parts.includes(part) ? [] : [part];
  for (const piece of pieces) {
    const [name, text = ""] = piece.split("=");
    const value = Object.hasOwn(settings, name) ? settings[name].read(decoded(text)) : undefined;
    if (value === undefined) {
      damaged.push(piece);
    } else {
      values[name] = value;
    }
  }
  return { part: damaged.includes(part) ? "" : part, values, damaged };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch (error) {
    if (error instanceof URIError) {
      return "";
    }
    throw error;
  }
}

/** The fragment of a state; the way back from `readFragment`. */
export function writeFragment(part, values, settings) {
  const pieces = [part];
  for (const [name, setting] of Object.entries(settings)) {
    const text = setting.write(values[name]);
    if (text !== setting.write(setting.fallback)) {
      pieces.push(`${name}=${encodeURIComponent(text).replaceAll("%2C", ",").replaceAll("%3B", ";")}`);
    }
  }
  return `#${pieces.join("&")}`;
}

/** A setting that is a number from `low` to `high`. */
export function numberSetting(fallback, low, high) {
  const read = (text) => {
    const value = Number(text);
    return text.trim() !== "" && value >= low && value <= high ? value : undefined;
  };
  return { fallback, read, write: String };
}

/** A setting that is one of a few words. */
export function wordSetting(fallback, words) {
  return { fallback, read: (text) => (words.includes(text) ? text : undefined), write: String };
}

/** A setting that is a list of numbers from `low` to `high`; `isLength` says how many there may be. */
export function listSetting(fallback, low, high, isLength) {
  const read = (text) => {
    const values = text === "" ? [] : text.split(",").map(numberSetting(0, low, high).read);
    return values.includes(undefined) || !isLength(values.length) ? undefined : values;
  };
  return { fallback, read, write: (values) => values.join(",") };
}

/** The settings of all parts, and what they are now. */
export class PageState {
  /** parts: names of the parts. `address` is like window.location, `keep(fragment)` writes the fragment. */
  constructor(parts, settings, fragment, keep) {
    this.parts = parts;
    this.settings = settings;
    this.keep = keep;
    Object.assign(this, readFragment(fragment, settings, parts));
  }

  get(name) {
    return this.values[name];
  }

  /** Changes a setting, whose name begins with its part: "costs.ratio". */
  set(name, value) {
    this.values[name] = value;
    this.part = name.split(".")[0];
    this.keep(writeFragment(this.part, this.values, this.settings));
  }
}
