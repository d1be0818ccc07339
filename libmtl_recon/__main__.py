from libmtl_recon.cli import main

raise SystemExit(main())
