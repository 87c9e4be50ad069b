// Marks on the page: a selection in the post becomes numbers, which follow when the post is edited, and are shown.
// Numbers count characters as Python does; JavaScript counts UTF-16 units, of which an emoji has two.
() => {
    const POST = "#mg-post textarea";
    const NAMES = { 1: ["mention"], 2: ["head", "tail"] };
    let before = null; // the text before the edit under way

    document.addEventListener("beforeinput", (event) => {
        if (event.target.matches && event.target.matches(POST)) before = event.target.value;
    }, true);

    const escaped = (text) => text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
    const pairs = (numbers) => [numbers.slice(0, 2), numbers.slice(2, 4)];
    const isSpan = ([start, end], length) =>
        Number.isInteger(start) && Number.isInteger(end) && 0 <= start && start < end && end <= length;

    // Start and end of the selection, without white space at its ends; null if nothing is selected.
    function selection(text) {
        const box = document.querySelector(POST);
        if (!box || box.value !== text) return null;
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
        const moved = now.length - old.length;
        if (span[1] <= same) return span;
        return span[0] >= old.length - tail ? span.map((place) => place + moved) : [null, null];
    }

    function shown(text, slots, numbers) {
        const letters = Array.from(text), spans = pairs(numbers).slice(0, slots);
        const good = spans.map((span) => isSpan(span, letters.length));
        if (!good.some(Boolean)) {
            const names = NAMES[slots].map((name) => `“Mark as ${name}”`).join(" or ");
            return `<p class="mg-hint">Nothing is marked. Select words in the post, then press ${names}.</p>`;
        }
        const cuts = [0, letters.length, ...spans.filter((_, slot) => good[slot]).flat()].sort((a, b) => a - b);
        let html = "";
        for (let number = 1; number < cuts.length; number += 1) {
            const [start, end] = [cuts[number - 1], cuts[number]];
            if (start === end) continue;
            const own = NAMES[slots].filter((_, slot) => good[slot] && spans[slot][0] <= start && end <= spans[slot][1]);
            const part = escaped(letters.slice(start, end).join(""));
            html += own.length
                ? `<mark class="${own.map((name) => `mg-${name}`).join(" ")}" title="${own.join(", ")}">${part}</mark>`
                : part;
        }
        const missing = NAMES[slots].filter((_, slot) => !good[slot]);
        const hint = missing.length ? `<p class="mg-hint">The ${missing[0]} is still to be marked.</p>` : "";
        return `<p class="mg-post" dir="auto">${html}</p>${hint}`;
    }

    window.mgvmoe = {
        // The selection becomes the span of a slot. Returns the four numbers and what is shown.
        mark: (slot, slots, text, numbers) => {
            const found = selection(text || "");
            if (found === null) {
                const advice = "Nothing is selected in the post. Select words with the mouse, a long press, "
                    + "or Shift and the arrow keys, then press the button.";
                return [...numbers, `<div class="mg-message" role="alert">${advice}</div>`];
            }
            const spans = pairs(numbers);
            spans[slot] = found;
            return [...spans.flat(), shown(text, slots, spans.flat())];
        },
        // After an edit by hand the numbers go with their words. Returns the four numbers.
        follow: (text, numbers) => {
            if (before === null) return numbers;
            const [old, now] = [Array.from(before), Array.from(text || "")];
            before = null;
            return pairs(numbers).map((span) => followed(span, old, now)).flat();
        },
        clear: (slots, text) => [null, null, null, null, shown(text || "", slots, [null, null, null, null])],
        show: (slots, text, numbers) => shown(text || "", slots, numbers),
    };
}
