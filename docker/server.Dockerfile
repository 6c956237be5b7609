# An inference server: vLLM with MolmoAct as its plug-in, for policies with `backend: server`. No ROS.
# Build from the repository's root: docker build -f docker/server.Dockerfile -t molmoact-server .
FROM vllm/vllm-openai:v0.33.0

# Everything that the plug-in needs is in vLLM's image already but for these; the sources are enough, nothing is compiled.
RUN useradd --create-home --shell /bin/bash server \
    && pip install --no-cache-dir "opencv-python-headless>=4.10" "safetensors>=0.4" "pydantic>=2.7,<3"
COPY docker/plugin.pyproject.toml /opt/molmoact/pyproject.toml
COPY molmoact_ros /opt/molmoact/molmoact_ros
RUN pip install --no-cache-dir --no-deps /opt/molmoact

USER server
WORKDIR /home/server
EXPOSE 8000
ENTRYPOINT ["python3", "-m", "molmoact_ros.cli.main", "serve", "--host", "0.0.0.0", "--checkpoint"]
CMD ["/checkpoint"]
HEALTHCHECK --interval=10s --timeout=4s --start-period=600s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=3)"]
