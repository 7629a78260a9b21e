"use strict";
// Meshes to orbit, and the buttons of the page. One WebGL context draws all of them, each into a canvas of its own,
// since browsers keep about sixteen contexts alive. Needs THREE (index_files/three.min.js).
(() => {
  const FOVY = 35; // degrees
  const START = { azimuth: 25, elevation: 15 }; // degrees; azimuth 0 sees the front, which faces +z in the files
  const TURN = (10 * Math.PI) / 180; // by an arrow key
  const ZOOM = 0.9; // by plus and minus

  const all = (query, inside = document) => [...inside.querySelectorAll(query)];
  const showStatus = (words) => all(".status").forEach((line) => (line.textContent = words));

  // ---- meshes

  const models = new Map(); // address of a script -> promise of a model

  /** The bytes of a GLB file, which its script leaves at its own element. */
  const read = (source) =>
    new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = source;
      script.onload = () => resolve(Uint8Array.from(atob(script.glb), (letter) => letter.charCodeAt(0)).buffer);
      script.onerror = () => reject(new Error(`${source} is missing; it belongs beside this page`));
      document.head.append(script);
    });

  const load = (source) => {
    if (!models.has(source)) {
      models.set(
        source,
        read(source)
          .then((bytes) => new THREE.GLTFLoader().parseAsync(bytes, ""))
          .then(({ scene }) => {
            const centre = new THREE.Box3().setFromObject(scene).getCenter(new THREE.Vector3());
            const point = new THREE.Vector3();
            let radius = 0;
            scene.traverse((node) => {
              if (!node.isMesh) return;
              node.userData.own = node.material;
              const points = node.geometry.attributes.position;
              for (let i = 0; i < points.count; i++) {
                point.fromBufferAttribute(points, i).applyMatrix4(node.matrixWorld);
                radius = Math.max(radius, point.distanceTo(centre));
              }
            });
            return { scene, centre, radius: radius || 1 };
          }),
      );
    }
    return models.get(source);
  };

  // ---- drawing

  let renderer = null;
  const world = new THREE.Scene();
  const ambient = new THREE.AmbientLight(0xffffff);
  const sun = new THREE.DirectionalLight(0xffffff);
  world.add(ambient, sun);
  const plain = new THREE.MeshStandardMaterial({ color: 0xd8d4cc, roughness: 1 });
  const normals = new THREE.MeshNormalMaterial();
  // An ambient light of intensity pi shows the albedo itself: three.js divides by pi in its diffuse reflection.
  const SHADINGS = {
    colours: { ambient: Math.PI, sun: 0, material: null },
    light: { ambient: 1.2, sun: 2.4, material: null },
    surface: { ambient: 0.7, sun: 2.6, material: plain },
    normals: { ambient: 0, sun: 0, material: normals },
  };
  let shading = SHADINGS.colours;

  /** One canvas with a mesh. */
  class View {
    constructor(canvas) {
      this.canvas = canvas;
      this.camera = new THREE.PerspectiveCamera(FOVY, 1, 0.01, 100);
      this.still = "still" in canvas.dataset;
      this.size = [0, 0];
      this.fault = ""; // why there is no mesh
      if (!this.still) this.listen();
      new ResizeObserver(() => {
        this.fit();
        draw(this);
      }).observe(canvas);
      const watch = new IntersectionObserver(
        (entries) => {
          if (!entries.some((entry) => entry.isIntersecting)) return;
          watch.disconnect();
          this.show(canvas.dataset.mesh);
        },
        { rootMargin: "300px" },
      );
      watch.observe(canvas);
    }

    listen() {
      const { canvas } = this;
      this.controls = new THREE.OrbitControls(this.camera, canvas);
      this.controls.enablePan = false;
      this.controls.enableZoom = false;
      canvas.style.touchAction = "pan-y"; // a finger that moves up or down scrolls the page
      this.controls.addEventListener("change", () => {
        draw(this);
        if (together()) this.lead();
      });
      canvas.addEventListener("pointerdown", () => canvas.focus({ preventScroll: true }));
      canvas.addEventListener("focus", () => (this.controls.enableZoom = true));
      canvas.addEventListener("blur", () => (this.controls.enableZoom = false));
      canvas.addEventListener("keydown", (event) => {
        const act = {
          ArrowLeft: () => this.controls.rotateLeft(TURN),
          ArrowRight: () => this.controls.rotateLeft(-TURN),
          ArrowUp: () => this.controls.rotateUp(TURN),
          ArrowDown: () => this.controls.rotateUp(-TURN),
          "+": () => this.controls.dollyIn(ZOOM),
          "=": () => this.controls.dollyIn(ZOOM),
          "-": () => this.controls.dollyOut(ZOOM),
          0: () => this.start(),
        }[event.key];
        if (!act || !this.model || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        act();
      });
    }

    /** Loads a mesh and shows it; the camera stays when there was one before. */
    async show(source) {
      const first = !this.model;
      this.fault = "";
      try {
        this.model = await load(source);
      } catch (error) {
        this.fault = `No mesh: ${error.message}.`;
      }
      showStatus([...new Set(views.map((view) => view.fault))].filter(Boolean).join(" "));
      if (this.fault) return;
      if (first) this.start();
      draw(this);
    }

    /** Puts the camera where it sees the whole mesh. */
    start() {
      const { azimuth, elevation } = START;
      const [a, e] = [azimuth, elevation].map((angle) => (angle * Math.PI) / 180);
      const aspect = Math.min(1, this.canvas.clientWidth / this.canvas.clientHeight || 1);
      const half = Math.atan(Math.tan((FOVY * Math.PI) / 360) * aspect);
      const out = new THREE.Vector3(Math.sin(a) * Math.cos(e), Math.sin(e), Math.cos(a) * Math.cos(e));
      this.place(out.multiplyScalar(1.03 / Math.sin(half)));
    }

    /** Puts the camera at an offset from the mesh's centre, in units of its radius. */
    place(offset) {
      const { centre, radius } = this.model;
      this.camera.position.copy(centre).addScaledVector(offset, radius);
      this.camera.near = radius / 100;
      this.camera.far = radius * 100;
      this.camera.lookAt(centre);
      this.camera.updateProjectionMatrix();
      if (this.controls) {
        this.controls.target.copy(centre);
        this.controls.minDistance = radius * 1.1;
        this.controls.maxDistance = radius * 20;
        this.controls.update();
      }
      draw(this);
    }

    /** Where the camera is, as `place` takes it. */
    offset() {
      return this.camera.position.clone().sub(this.model.centre).divideScalar(this.model.radius);
    }

    /** Lets the other views see the same side. */
    lead() {
      if (View.leads || !this.model) return;
      View.leads = true;
      for (const view of views) if (view !== this && !view.still && view.model) view.place(this.offset());
      View.leads = false;
    }

    fit() {
      const dense = Math.min(window.devicePixelRatio || 1, 2);
      this.size = [this.canvas.clientWidth, this.canvas.clientHeight].map((side) => Math.round(side * dense));
      if (!this.size[0] || !this.size[1]) return;
      [this.canvas.width, this.canvas.height] = this.size;
      this.camera.aspect = this.size[0] / this.size[1];
      this.camera.updateProjectionMatrix();
    }

    paint() {
      const [width, height] = this.size;
      if (!this.model || !width || !height) return;
      const whole = renderer.domElement;
      if (whole.width < width || whole.height < height) {
        renderer.setSize(Math.max(whole.width, width), Math.max(whole.height, height), false);
      }
      const { scene } = this.model;
      scene.traverse((node) => {
        if (node.isMesh) node.material = shading.material || node.userData.own;
      });
      ambient.intensity = shading.ambient;
      sun.intensity = shading.sun;
      sun.position.set(-0.5, 1, 1).applyQuaternion(this.camera.quaternion); // from above the viewer's left shoulder
      world.add(scene);
      renderer.setViewport(0, 0, width, height);
      renderer.clear();
      renderer.render(world, this.camera);
      world.remove(scene);
      const flat = this.canvas.getContext("2d");
      flat.clearRect(0, 0, width, height);
      flat.drawImage(whole, 0, whole.height - height, width, height, 0, 0, width, height);
      this.canvas.dataset.drawn = "";
    }
  }

  const waiting = new Set();
  const draw = (view) => {
    if (!waiting.size) {
      requestAnimationFrame(() => {
        for (const each of waiting) each.paint();
        waiting.clear();
      });
    }
    waiting.add(view);
  };

  const together = () => document.querySelector("[data-together]")?.checked;

  let views = [];
  const canvases = all("canvas[data-mesh]");
  if (canvases.length) {
    try {
      renderer = new THREE.WebGLRenderer({ antialias: true, alpha: true });
      renderer.setSize(1, 1, false);
      views = canvases.map((canvas) => new View(canvas));
    } catch {
      showStatus("This browser draws no 3D here (WebGL is off). The files open in any 3D program.");
    }
  }

  // ---- buttons

  const press = (group, button) => {
    for (const each of group) each.setAttribute("aria-pressed", String(each === button));
  };
  const shades = all("[data-shade]");
  for (const button of shades) {
    button.addEventListener("click", () => {
      press(shades, button);
      shading = SHADINGS[button.dataset.shade];
      views.forEach(draw);
    });
  }
  for (const button of all("[data-reset]")) {
    button.addEventListener("click", () => views.filter((view) => view.model).forEach((view) => view.start()));
  }
  const choices = all("[data-choose]");
  for (const button of choices) {
    button.addEventListener("click", () => {
      press(choices, button);
      views.find((view) => !view.still)?.show(button.dataset.choose);
      for (const links of all("[data-of]")) links.hidden = links.dataset.of !== button.dataset.choose;
    });
  }
  // Videos are small: the browser's controls would cover them.
  const videos = all("video");
  for (const video of videos) {
    video.controls = false;
    video.tabIndex = 0;
    video.setAttribute("role", "button");
    const widen = () => video.parentElement.style.setProperty("--wide", video.videoWidth / video.videoHeight);
    video.readyState ? widen() : video.addEventListener("loadedmetadata", widen, { once: true });
    const toggle = () => (video.paused ? video.play().catch(() => {}) : video.pause());
    video.addEventListener("click", toggle);
    video.addEventListener("keydown", (event) => {
      if (event.key !== " " && event.key !== "Enter") return;
      event.preventDefault();
      toggle();
    });
  }
  for (const button of all("[data-play]")) {
    button.addEventListener("click", () => {
      const play = button.getAttribute("aria-pressed") === "false";
      button.setAttribute("aria-pressed", String(play));
      button.textContent = play ? "Pause all" : "Play all";
      for (const video of videos) {
        if (!play) video.pause();
        else {
          video.currentTime = 0; // all at the same angle
          video.play().catch(() => {});
        }
      }
    });
  }
})();
