// Marks on the page: a selection in the post becomes numbers, which follow when the post is edited, and are shown.
// Numbers count characters as Python does; JavaScript counts UTF-16 units, of which an emoji has two.
// The numbers are kept here and change at once with what the user does; the fields of the page are told afterwards, for
// Gradio hands events on later, and several keys may have been pressed by then.
() => {
    const POST = "#mg-post textarea";
    const NAMES = { 1: ["mention"], 2: ["head", "tail"] };
    const NONE = [null, null, null, null];
    let numbers = NONE; // start and end of the mention or head, then of the tail
    let before = ""; // the text before the edit under way

    const isPost = (event) => event.target.matches && event.target.matches(POST);
    document.addEventListener("beforeinput", (event) => {
        if (isPost(event)) before = event.target.value;
    }, true);
    document.addEventListener("input", (event) => {
        if (!isPost(event)) return;
        const [old, now] = [Array.from(before), Array.from(event.target.value)];
        numbers = spans().flatMap((span) => followed(span, old, now));
        before = event.target.value;
    }, true);

    const escaped = (text) => text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
    const spans = () => [numbers.slice(0, 2), numbers.slice(2, 4)];
    const isSpan = ([start, end], length) =>
        Number.isInteger(start) && Number.isInteger(end) && 0 <= start && start < end && end <= length;

    // Start and end of the selection, without white space at its ends; null if nothing is selected.
    function selection() {
        const box = document.querySelector(POST), text = box.value;
        let [start, end] = [box.selectionStart, box.selectionEnd];
        while (start < end && /\s/.test(text[start])) start += 1;
        while (start < end && /\s/.test(text[end - 1])) end -= 1;
        if (start === end) return null;
        return [start, end].map((place) => Array.from(text.slice(0, place)).length);
    }

    // Where a span is after an edit; nowhere if the edit touched it.
    function followed(span, old, now) {
        if (!isSpan(span, old.length)) return span;
        const most = Math.min(old.length, now.length);
        let same = 0, tail = 0;
        while (same < most && old[same] === now[same]) same += 1;
        while (tail < most - same && old[old.length - 1 - tail] === now[now.length - 1 - tail]) tail += 1;
        if (span[1] <= same) return span;
        const moved = now.length - old.length;
        return span[0] >= old.length - tail ? span.map((place) => place + moved) : [null, null];
    }

    function shown(slots, text) {
        const letters = Array.from(text || ""), names = NAMES[slots], own = spans().slice(0, slots);
        const good = own.map((span) => isSpan(span, letters.length));
        if (!good.some(Boolean)) {
            const buttons = names.map((name) => `“Mark as ${name}”`).join(" or ");
            return `<p class="mg-hint">Nothing is marked. Select words in the post, then press ${buttons}.</p>`;
        }
        const cuts = [0, letters.length, ...own.filter((_, slot) => good[slot]).flat()].sort((a, b) => a - b);
        let html = "";
        for (let number = 1; number < cuts.length; number += 1) {
            const [start, end] = [cuts[number - 1], cuts[number]];
            if (start === end) continue;
            const inside = names.filter((_, slot) => good[slot] && own[slot][0] <= start && end <= own[slot][1]);
            const part = escaped(letters.slice(start, end).join(""));
            html += inside.length
                ? `<mark class="${inside.map((name) => `mg-${name}`).join(" ")}" title="${inside.join(", ")}">${part}</mark>`
                : part;
        }
        const missing = names.filter((_, slot) => !good[slot]);
        const hint = missing.length ? `<p class="mg-hint">The ${missing[0]} is still to be marked.</p>` : "";
        return `<p class="mg-post" dir="auto">${html}</p>${hint}`;
    }

    window.mgvmoe = {
        numbers: () => numbers,
        // The selection becomes the span of a slot. Returns the four numbers and what is shown.
        mark: (slot, slots, text) => {
            const found = selection();
            if (found === null) {
                const advice = "Nothing is selected in the post. Select words with the mouse, a long press, "
                    + "or Shift and the arrow keys, then press the button.";
                return [...numbers, `<div class="mg-message" role="alert">${advice}</div>`];
            }
            numbers = spans().flatMap((span, place) => (place === slot ? found : span));
            return [...numbers, shown(slots, text)];
        },
        clear: (slots, text) => {
            numbers = NONE;
            return [...numbers, shown(slots, text)];
        },
        // An example brings its own marks, before its text is there.
        fill: (fields) => {
            numbers = fields;
            return [];
        },
        // The fields were filled in by hand. Returns what is shown.
        take: (slots, text, fields) => {
            numbers = fields.map((value) => (Number.isInteger(value) ? value : null));
            return shown(slots, text);
        },
        // The post has changed. Returns the four numbers and what is shown.
        follow: (slots, text) => [...numbers, shown(slots, text)],
        // On a phone the answer stands below what is in sight.
        reveal: () => {
            const answer = document.querySelector("#mg-verdict");
            const { top } = answer.getBoundingClientRect();
            if (top < 0 || top > innerHeight / 2) answer.scrollIntoView({ block: "start" });
        },
    };
}
