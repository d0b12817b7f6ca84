/** The theme: the system's, until the button says otherwise. */

import { byId } from './dom.js';

/** Shows the theme that was chosen last, and lets the button change it. */
export function followTheme(): void {
  const root = document.documentElement;
  const systemDark = matchMedia('(prefers-color-scheme: dark)');
  const button = byId('theme-toggle', HTMLButtonElement);
  const isDark = (): boolean => (root.dataset['theme'] ? root.dataset['theme'] === 'dark' : systemDark.matches);
  const show = (): void => {
    button.textContent = isDark() ? 'Light' : 'Dark';
    button.setAttribute('aria-label', `Use the ${isDark() ? 'light' : 'dark'} theme`);
  };
  try {
    const kept = localStorage.getItem('theme');
    if (kept === 'dark' || kept === 'light') root.dataset['theme'] = kept;
  } catch {
    // storage may be forbidden; the system's theme does then
  }
  systemDark.addEventListener('change', show);
  button.addEventListener('click', () => {
    root.dataset['theme'] = isDark() ? 'light' : 'dark';
    try {
      localStorage.setItem('theme', root.dataset['theme']);
    } catch {
      // as above
    }
    show();
  });
  show();
}
