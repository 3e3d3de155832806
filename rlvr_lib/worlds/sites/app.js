// Follows links and sends forms without leaving the document: the answer is a whole page, and what differs is
// exchanged. Elements stay when tag and key agree (data-key), so a node of the browser outlives an action.
// Without this script the sites work as plain pages.
(() => {
  const keyOf = (node) => (node.nodeType === 1 && node.dataset.key) || '';

  function match(old, fresh) {
    return old.nodeType === fresh.nodeType && old.nodeName === fresh.nodeName && keyOf(old) === keyOf(fresh);
  }

  function attributes(old, fresh) {
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }

  function controls(old) {
    if (old.nodeName === 'INPUT' && ['checkbox', 'radio'].includes(old.type)) old.checked = old.hasAttribute('checked');
    else if (old.nodeName === 'INPUT' && old.type !== 'hidden') old.value = old.getAttribute('value') || '';
    else if (old.nodeName === 'OPTION') old.selected = old.hasAttribute('selected');
    else if (old.nodeName === 'TEXTAREA') old.value = old.textContent;
  }

  function morph(old, fresh) {
    if (old.nodeType !== 1) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    attributes(old, fresh);
    const left = [...old.childNodes];
    let place = null; // the last child that is in its place
    for (const child of [...fresh.childNodes]) {
      const index = left.findIndex((candidate) => match(candidate, child));
      const kept = index < 0 ? document.importNode(child, true) : left.splice(index, 1)[0];
      if (index >= 0) morph(kept, child);
      const next = place ? place.nextSibling : old.firstChild;
      if (kept !== next) old.insertBefore(kept, next);
      place = kept;
    }
    for (const child of left) child.remove();
    controls(old);
  }

  async function show(url, options, remember) {
    const root = document.documentElement;
    root.setAttribute('aria-busy', 'true');
    try {
      const answer = await fetch(url, options);
      const fresh = new DOMParser().parseFromString(await answer.text(), 'text/html');
      if (remember && answer.url !== location.href) history.pushState(null, '', answer.url);
      document.title = fresh.title;
      morph(document.body, fresh.body);
    } finally {
      root.removeAttribute('aria-busy');
    }
  }

  addEventListener('click', (event) => {
    const anchor = event.target.closest('a[href]');
    if (!anchor || anchor.origin !== location.origin) return;
    event.preventDefault();
    show(anchor.href, {}, true);
  });

  addEventListener('submit', (event) => {
    const form = event.target;
    const data = new URLSearchParams(new FormData(form, event.submitter));
    event.preventDefault();
    if (form.method === 'post') show(form.action, { method: 'POST', body: data }, true);
    else show(`${form.action.split('?')[0]}?${data}`, {}, true);
  });

  addEventListener('popstate', () => show(location.href, {}, false));
})();
