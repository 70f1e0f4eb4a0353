# A Chromium for the tests that look at the evaluation page: one that is installed, else Debian's.
.PHONY: browser
browser:
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do command -v $$name >/dev/null && exit 0; done; \
	if test -n "$(GMPO_BROWSER)$(GMPO_NO_BROWSER)"; then exit 0; fi; \
	if command -v apt-get >/dev/null && test "$$(id -u)" = 0; then \
	  echo "installing Chromium for the tests of the evaluation page"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    chromium fonts-dejavu-core fonts-dejavu-extra >/dev/null; \
	else \
	  echo "make test looks at the evaluation page in Chromium, and none is here. Install it (Debian: sudo apt-get install chromium"; \
	  echo "fonts-dejavu-core), name one with GMPO_BROWSER=/path/to/chromium, or go without: GMPO_NO_BROWSER=1 make test"; exit 1; \
	fi
