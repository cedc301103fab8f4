// Starts Swagger UI on the page /api/docs. The token is kept only in the page's memory.
"use strict";

window.addEventListener("load", () => {
  const place = document.getElementById("api");
  SwaggerUIBundle({
    url: place.dataset.url,
    domNode: place,
    deepLinking: true,
    docExpansion: "list",
    defaultModelsExpandDepth: 0,
    displayRequestDuration: true,
    persistAuthorization: false,
    validatorUrl: null,
  });
});
