'use strict';

// Conversations that the server keeps by name (/v1/kv/sessions). It keeps tokens and pages; the
// messages are kept by this browser, in localStorage.
const savedSessions = (() => {
  const kPath = '/v1/kv/sessions';
  const kKeyPrefix = 'session:';
  const kTitleLength = 200;
  let available = false;
  let saving = false;
  let busy = false;  // continues or deletes one

  // Empty text: nothing to say.
  function say(place, text, isError = false) {
    $(place).textContent = text;
    $(place).classList.toggle('error', isError);
  }

  function tell(error, place) { say(place, `Error: ${error.message}`, true); }

  async function call(method, path) {
    const response = await fetch(kPath + path, {
      method,
      headers: {'Content-Type': 'application/json'},
      body: method === 'POST' ? '{}' : undefined,
    });
    const body = await response.json();
    if (response.ok) return body;
    const error = new Error(body.error.message);
    error.status = response.status;
    throw error;
  }

  function pathOf(id, verb = '') { return `/${encodeURIComponent(id)}${verb}`; }

  // {title, system, messages, saved_at}, or null when this browser has none of this name, or
  // something else than it wrote.
  function kept(id) {
    try {
      const found = JSON.parse(localStorage.getItem(kKeyPrefix + id));
      const isText = ({role, content}) => typeof role === 'string' && typeof content === 'string';
      return found && Array.isArray(found.messages) && found.messages.every(isText) ? found : null;
    } catch {
      return null;
    }
  }

  function keep(id, conversation, system, savedAt) {
    const first = conversation.find(({role}) => role === 'user');
    localStorage.setItem(kKeyPrefix + id, JSON.stringify({
      title: first ? first.content.slice(0, kTitleLength) : '',
      system,
      messages: conversation,
      saved_at: savedAt,
    }));
  }

  function keptIds() {
    return Object.keys(localStorage)
        .filter((key) => key.startsWith(kKeyPrefix))
        .map((key) => key.slice(kKeyPrefix.length));
  }

  async function save() {
    const id = session;
    const conversation = messages;  // another one after New chat
    const system = $('system').value;
    saving = true;
    update();
    say('notice', 'Saving…');
    try {
      const saved = await call('POST', pathOf(id, '/save'));
      keep(id, conversation, system, saved.saved_at);
      say('notice', `Saved: ${saved.saved_tokens} of ${saved.tokens} tokens in ` +
          `${mebibytes(saved.bytes)} MiB; the rest is computed again.`);
    } catch (error) {
      if (error.status === 409) {  // the server has nothing of it to keep; this browser has
        keep(id, conversation, system, Math.floor(Date.now() / 1000));
        say('notice', `Saved in this browser alone: ${error.message}.`);
      } else {
        tell(error, 'notice');
      }
    }
    saving = false;
    update();
  }

  // How many tokens are in memory again, or why none is. That is no reason not to continue.
  async function restore(id) {
    try {
      return {tokens: (await call('POST', pathOf(id, '/restore'))).restored_tokens};
    } catch (error) {
      if (error.status === 409 || error.status === 503) return {tokens: 0, why: error.message};
      throw error;
    }
  }

  async function resume({id, here, there}) {
    const restored = there ? await restore(id) : {tokens: 0};
    $('saved').close();
    $('system').value = here.system || '';
    openConversation(id, here.messages);
    if (restored.tokens) kvStrip.restored(restored.tokens);
    const anew = 'Continued: its tokens are computed again with the next message';
    say('notice', restored.tokens ? `Continued: ${restored.tokens} of ${there.tokens} tokens are in memory again.` :
                  restored.why    ? `${anew} (${restored.why}).` :
                                    `${anew}.`);
  }

  async function remove({id, there}) {
    if (there) {
      try {
        await call('DELETE', pathOf(id));
      } catch (error) {
        if (error.status !== 404) throw error;  // gone already is as good
      }
    }
    localStorage.removeItem(kKeyPrefix + id);
    await list();
    $('saved-close').focus();
  }

  function button(label, name, action) {
    const node = element('button', '', label);
    node.type = 'button';
    node.setAttribute('aria-label', `${label}: ${name}`);
    node.addEventListener('click', () => action(node));
    return node;
  }

  // One at a time.
  async function act(action, entry) {
    if (busy) return;
    busy = true;
    $('saved-list').setAttribute('aria-busy', 'true');
    say('saved-notice', '');
    try {
      await action(entry);
    } catch (error) {
      tell(error, 'saved-notice');
    }
    busy = false;
    $('saved-list').removeAttribute('aria-busy');
  }

  // The first press asks, for nothing brings a deleted conversation back.
  function deleteButton(entry, title) {
    return button('Delete', title, (node) => {
      if (node.classList.contains('sure')) {
        act(remove, entry);
        return;
      }
      node.classList.add('sure');
      node.textContent = 'Really delete';
      node.setAttribute('aria-label', `Really delete: ${title}`);
    });
  }

  function describeEntry({here, there}) {
    const parts = there ? [`${there.tokens} tokens`, `${mebibytes(there.bytes)} MiB`] : [];
    const savedAt = there ? there.saved_at : here.saved_at;
    if (savedAt) parts.push(new Date(savedAt * 1000).toLocaleString());
    if (!here) parts.push('its messages are in another browser, so it cannot be continued here');
    if (!there) parts.push('not at this server: its tokens are computed again');
    return parts.join(' · ');
  }

  function drawEntry(entry) {
    const title = (entry.here && entry.here.title) || entry.id;
    const item = element('li');
    const text = element('div', 'text');
    text.append(element('strong', '', title), element('span', 'meta', describeEntry(entry)));
    const buttons = element('div', 'buttons');
    if (entry.here) buttons.append(button('Continue', title, () => act(resume, entry)));
    buttons.append(deleteButton(entry, title));
    item.append(text, buttons);
    return item;
  }

  async function list() {
    const saved = (await call('GET', '')).data;
    const entries = saved.map((there) => ({id: there.id, here: kept(there.id), there}));
    const ids = new Set(saved.map(({id}) => id));
    for (const id of keptIds()) {
      if (!ids.has(id) && kept(id)) entries.push({id, here: kept(id), there: null});
    }
    $('saved-list').replaceChildren(...entries.map(drawEntry));
    if (!entries.length) say('saved-notice', 'Nothing is saved yet.');
  }

  async function open() {
    say('saved-notice', '');
    $('saved-list').replaceChildren();
    $('saved').showModal();
    try {
      await list();
    } catch (error) {
      tell(error, 'saved-notice');
    }
  }

  function update() {
    $('saved-open').hidden = !available;
    $('save').hidden = !available || !messages.some(({role}) => role === 'assistant');
    $('save').disabled = saving || running !== null;
  }

  return {
    update,
    notice(text) { say('notice', text); },

    // Asks whether the server keeps sessions at all.
    async start() {
      $('save').addEventListener('click', save);
      $('saved-open').addEventListener('click', open);
      $('saved-close').addEventListener('click', () => $('saved').close());
      $('saved').addEventListener('click', (event) => {  // beside the panel
        if (event.target === $('saved')) $('saved').close();
      });
      try {
        await call('GET', '');
        available = true;
      } catch (error) {
        available = error.status !== undefined && error.status !== 501;
      }
      update();
    },
  };
})();
