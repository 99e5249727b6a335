// Reads the page's data and starts the charts.

function readData(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

/** The theme is the system's until the button is pressed. */
function startTheme() {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const tell = () => button.setAttribute("aria-pressed", String(isDark()));
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    tell();
  });
  system.addEventListener("change", tell);
  button.hidden = false;
  tell();
}

/** Says in each section what the chosen run's record lacks. */
function showMissing(run, several) {
  for (const section of document.querySelectorAll("main section")) {
    const note = section.querySelector(".missing-note");
    if (!note) continue;
    const text = run.missing[section.id];
    note.hidden = !text;
    note.textContent = text ? (several ? `${run.name}: ${text}` : text) : "";
    section.querySelector(".lead")?.toggleAttribute("hidden", Boolean(text) && !several);
  }
}

function start() {
  startTheme();
  const data = readData("data");
  const several = data.runs.length > 1;
  const time = new TimeAxis(data.runs);
  const training = new Training(data, time);
  const layers = new Layers(time);
  const details = new Map();

  const showRun = (place) => {
    if (!details.has(place)) details.set(place, readData(`details-${place}`));
    showMissing(data.runs[place], several);
    layers.show(data.runs[place], details.get(place));
  };
  const axis = chooser("Horizontal axis", ["steps", "epochs"], (place) => {
    time.epochs = place === 1;
    training.show();
    layers.showTimes();
  });
  const controls = document.getElementById("training-controls");
  controls.append(...[time.possible ? axis.node : null, training.chooser()].filter((node) => node));
  const runs = chooser("Run shown by layer", data.runs.map((run) => run.name), showRun);
  document.getElementById("run-controls").append(runs.node);
  document.getElementById("run-controls").hidden = !several;
  training.show();
  const first = data.runs.findIndex((run) => !run.missing.weights);
  runs.select.value = Math.max(0, first);
  showRun(Math.max(0, first));
  document.documentElement.dataset.ready = "true";
}

start();
