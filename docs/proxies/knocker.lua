-- The question to Knocker, for haproxy.cfg: puts the status of its answer into txn.knocker, or 0 where there is none.
local address, port = "127.0.0.1", 8000

core.register_action("ask_knocker", { "http-req" }, function(txn)
	txn:set_var("txn.knocker", 0)
	-- None of the client's headers goes along. The path is the one with the query: over HTTP/2 the url has the host too.
	local client, host, method, path = txn.sf:src(), txn.sf:req_hdr("host"), txn.sf:method(), txn.sf:pathq()
	-- A line break in one of them would begin a header of the client's own.
	if (client .. host .. method .. path):find("%c") then
		return
	end
	local question = table.concat({
		"GET /verify HTTP/1.1",
		"Host: knocker",
		"Connection: close",
		"X-Forwarded-For: " .. client,
		"X-Forwarded-Host: " .. host,
		"X-Forwarded-Method: " .. method,
		"X-Forwarded-Uri: " .. path,
		"\r\n",
	}, "\r\n")
	local knocker = core.tcp()
	knocker:settimeout(2)
	if knocker:connect(address, port) then
		knocker:settimeout(5)
		if knocker:send(question) then
			local status = (knocker:receive("*l") or ""):match("^HTTP/1%.1 (%d%d%d) ")
			txn:set_var("txn.knocker", tonumber(status) or 0)
		end
	end
	knocker:close()
end, 0)
