import { defineConfig } from 'vite';

export default defineConfig({
  // The demo model's files are served beside the page.
  publicDir: '../demo-model/weights',
  build: { target: 'es2022' },
});
