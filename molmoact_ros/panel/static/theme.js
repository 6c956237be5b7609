// Light or dark: as chosen here before, else as the device has it.

const device = matchMedia("(prefers-color-scheme: dark)");

export function theme() {
  return localStorage.getItem("theme") ?? (device.matches ? "dark" : "light");
}

export function choose(name) {
  localStorage.setItem("theme", name);
  paint();
}

function paint() {
  document.documentElement.dataset.theme = theme();
}

device.addEventListener("change", paint);
paint();
