// The form that starts a run. What a field is left to be when it is empty is shown in it: the chosen drill's own value.

import { h, seconds } from "./dom.js";

const AS_THE_DRILL = ["", "drill"];  // choices that leave it to the drill

export async function startForm(whenStarted) {
  const { groups, drills } = await (await fetch("stormgate/form")).json();
  const question = h("p", { class: "note" });
  const message = h("p", { class: "message", role: "alert" });
  const button = h("button", { type: "submit", class: "storm" }, "Start");
  const form = h("form", { class: "start", novalidate: true, "aria-label": "Start a run" }, groups.map((group, at) =>
    h("fieldset", {}, h("legend", {}, group.title), group.fields.map(labelled), at ? null : question)), h("div", { class: "send" }, button, message));

  const drawDrill = () => {
    const drill = drills[form.elements.drill.value];
    question.textContent = `${drill.question} About ${seconds(drill.seconds)}.`;
    for (const field of groups.flatMap((group) => group.fields)) {
      const has = drill.fields[field.name], input = form.elements[field.name];
      if (field.kind === "number") input.placeholder = has !== undefined ? `${has}, as the drill has it` : "as the drill has it";
      if (field.name === "policy") input.options[0].textContent = `${has}, as the drill has it`;
    }
  };
  form.addEventListener("input", () => { drawDrill(); message.textContent = ""; });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    message.textContent = "";
    try {
      const answer = await (await fetch("swarm", { method: "POST", body: asked(form, groups) })).json();
      if (answer.success) whenStarted();
      else message.textContent = answer.message;
    } catch {
      message.textContent = "Not started: unexpected answer from Locust; see its log.";
    }
    button.disabled = false;
  });
  drawDrill();
  return h("details", { open: true }, h("summary", {}, "Start a run"), form);
}

function asked(form, groups) {
  const out = new URLSearchParams();
  for (const field of groups.flatMap((group) => group.fields)) out.set(field.name, form.elements[field.name].value.trim() || field.empty);
  return out;
}

function labelled(field) {
  const id = `storm-${field.name}`, help = `${id}-help`;
  const shared = { id, name: field.name, "aria-describedby": help };
  const input = field.kind === "choice"
    ? h("select", shared, field.choices.map((choice) => h("option", { value: choice, selected: choice === field.default },
      AS_THE_DRILL.includes(choice) ? "as the drill has it" : choice)))
    : h("input", { ...shared, type: field.kind === "secret" ? "password" : "text", inputmode: field.kind === "number" ? "decimal" : null,
      value: field.default === field.empty ? "" : field.default, autocomplete: "off" });
  return h("div", { class: "field" }, h("label", { for: id }, field.label, field.unit ? h("span", { class: "description" }, ` (${field.unit})`) : null),
    input, h("small", { id: help }, field.help));
}
