// Whether a Java source is one, as far as that can be known without what it imports.
import java.nio.file.Path;
import java.util.List;
import javax.tools.DiagnosticCollector;
import javax.tools.JavaFileObject;
import javax.tools.ToolProvider;
import com.sun.source.util.JavacTask;

public class Parse {
    public static void main(String[] files) throws Exception {
        var compiler = ToolProvider.getSystemJavaCompiler();
        var found = new DiagnosticCollector<JavaFileObject>();
        var manager = compiler.getStandardFileManager(found, null, null);
        var sources = manager.getJavaFileObjects(List.of(files).stream().map(Path::of).toArray(Path[]::new));
        ((JavacTask) compiler.getTask(null, manager, found, null, null, sources)).parse();
        found.getDiagnostics().forEach(System.err::println);
        System.exit(found.getDiagnostics().isEmpty() ? 0 : 1);
    }
}
