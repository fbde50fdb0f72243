'use strict';

// The conversation's pages in the KV cache, oldest first, coloured by temperature. Live from /v1/kv
// while an answer streams; the numbers at the end are the answer's own usage.
const kvStrip = (() => {
  const kPollMs = 500;
  // Hottest first; a page's letter is its tier's first. What the server names replaces it.
  let tiers = ['hot', 'warm', 'cold', 'archive'];
  let pageTokens = 64;
  let pageBytes = null;  // by tier, once the server has told
  let seen = '';         // pages of the sequence that runs, as last seen
  let watching = null;   // AbortController

  function tierOf(letter) { return tiers.find((tier) => tier[0] === letter) || ''; }

  // How much smaller than with every page hot. Empty when the server has not told what a page takes.
  function savings(tokens) {
    if (!pageBytes) return '';
    let bytes = 0;
    let pages = 0;
    for (const tier of tiers) {
      const count = Math.ceil((tokens[tier] || 0) / pageTokens);
      pages += count;
      bytes += count * pageBytes[tier];
    }
    const hot = pages * pageBytes.hot;
    if (bytes === hot) return `${mebibytes(hot)} MiB, all hot`;
    return `${(hot / bytes).toFixed(1)}× smaller than all hot: ` +
        `${mebibytes(bytes)} instead of ${mebibytes(hot)} MiB`;
  }

  function show(cells, label, legend, savingsText) {
    $('kv-pages').setAttribute('aria-label', label);
    $('kv-legend').replaceChildren(...legend);
    keepEndInView(() => {  // the strip takes its room from the messages
      $('kv-pages').replaceChildren(...cells);
      $('kv-savings').textContent = savingsText;
      $('kv').hidden = cells.length === 0;
    });
  }

  // Until the server has measured the model, cold pages are larger than they will be.
  function calibrationText(calibration) {
    if (!calibration) return '';
    switch (calibration.state) {
      case 'measuring': return `· measuring this model: ${Math.floor(100 * calibration.fraction)} %`;
      case 'switching': return '· measured, about to switch';
      case 'failed': return '· this model could not be measured';
      default: return '';
    }
  }

  // `before`: the pages at the last look.
  function draw(pages, tokens, before) {
    const cells = [...pages].map((letter, i) => {
      const wakes = before[i] === 'a' && letter !== 'a';
      return element('i', tierOf(letter) + (wakes ? ' waking' : ''));
    });
    const counts = tiers.map((tier) => `${tokens[tier] || 0} ${tier}`);
    const legend = tiers.map((tier) => {
      const entry = element('span', 'tier');
      entry.append(element('i', tier), `${tier} ${tokens[tier] || 0}`);
      return entry;
    });
    show(cells, `${pages.length} pages; tokens: ${counts.join(', ')}`, legend, savings(tokens));
  }

  function tokensByTier(pages, numTokens) {
    const tokens = {};
    [...pages].forEach((letter, i) => {
      const tier = tierOf(letter);
      const left = Math.min(Math.max(numTokens - i * pageTokens, 0), pageTokens);
      tokens[tier] = (tokens[tier] || 0) + left;
    });
    return tokens;
  }

  async function look(id, signal) {
    const kv = await (await fetch('/v1/kv', {signal})).json();
    pageTokens = kv.page_tokens;
    tiers = Object.keys(kv.tiers);
    pageBytes = Object.fromEntries(tiers.map((tier) => [tier, kv.tiers[tier].page_bytes]));
    $('kv-calibration').textContent = calibrationText(kv.calibration);
    const mine = kv.sequences.find((sequence) => sequence.id === id);
    if (!mine || signal.aborted) return;
    const before = seen;
    seen = mine.pages;
    draw(seen, tokensByTier(seen, mine.tokens), before);
  }

  function stop() {
    if (watching) watching.abort();
    watching = null;
  }

  return {
    stop,

    // Follows the sequence of the response with this id, until stop or finish.
    async start(id) {
      stop();
      seen = '';
      if (!id) return;
      const {signal} = watching = new AbortController();
      while (!signal.aborted) {
        try {
          await look(id, signal);
        } catch {
          // Stopped, or the server does not answer: the answer itself will tell.
        }
        await new Promise((resolve) => setTimeout(resolve, kPollMs));
      }
    },

    // What the answer's usage says. Where each page is, is what was seen last; what nobody looked at
    // (an answer of less than one look) is drawn in the order in which pages usually cool.
    finish(usage) {
      stop();
      const tokens = usage && usage.kv_tokens;
      if (!tokens) return;
      tiers = Object.keys(tokens);
      const cooling = ['warm', ...tiers.filter((tier) => tier !== 'warm').reverse()];
      const letters = cooling.map(
          (tier) => tier[0].repeat(Math.ceil((tokens[tier] || 0) / pageTokens)));
      const all = letters.join('');
      draw(seen ? seen.padEnd(all.length, 'h') : all, tokens, seen);
    },

    // Pages of a saved conversation that are in memory again. In which tier, its next answer tells.
    restored(numTokens) {
      stop();
      seen = '';
      const cells = Array.from({length: Math.ceil(numTokens / pageTokens)}, () => element('i', 'restored'));
      const entry = element('span', 'tier');
      entry.append(element('i', 'restored'), `restored ${numTokens}`);
      show(cells, `${cells.length} pages; tokens: ${numTokens} restored`, [entry], '');
    },

    clear() {
      stop();
      seen = '';
      draw('', {}, '');
    },
  };
})();
